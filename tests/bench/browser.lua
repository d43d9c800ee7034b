-- Ten headers as a browser sends them (Host is the tenth). The argument: "keep" sends one request over and over,
-- "vary" a thousand that differ in URL, cookie and referer, "close" asks for a new connection per request.
function init(args)
    wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    wrk.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    wrk.headers["Accept-Language"] = "en-US,en;q=0.5"
    wrk.headers["Accept-Encoding"] = "gzip, deflate, br, zstd"
    wrk.headers["Referer"] = "http://www.example.com/catalogue/list?page=3"
    wrk.headers["Cookie"] = "session=4f1b2c9a7d3e4f60a1b2c3d4e5f60718; theme=dark; consent=1"
    wrk.headers["Upgrade-Insecure-Requests"] = "1"
    wrk.headers["Sec-Fetch-Mode"] = "navigate"
    wrk.headers["Connection"] = args[1] == "close" and "close" or "keep-alive"
    prepared = {}
    for number = 1, args[1] == "vary" and 1000 or 1 do
        if args[1] == "vary" then
            wrk.headers["Cookie"] = "session=" .. number * 7919 .. "a1b2c3d4e5f60718; theme=dark; consent=1"
            wrk.headers["Referer"] = "http://www.example.com/catalogue/list?page=" .. number
        end
        prepared[number] = wrk.format("GET", "/catalogue/item?id=" .. 41 + number)
    end
    sent = 0
end

function request()
    sent = sent % #prepared + 1
    return prepared[sent]
end
