"""The demo: a page that shows which process answered, and a few paths to try a proxy with.

Plain WSGI, standard library only, Python 3.8 and newer. Hosted by conf/demo.yaml.

    /              the page                         /slow?ms=500   answers after a while (at most 20 s)
    /api/whoami    which process answered, as JSON  /stream        ten lines, one every 200 ms, in chunks
    /upload        POST: size and sha256 of the body  /boom        an exception: 500, the traceback in the log
    /healthz       what the health check asks
"""

import hashlib
import html
import json
import os
import time
from pathlib import Path
from urllib.parse import parse_qs

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
MAX_SLOW_MS = 20_000
BLOCK_BYTES = 64 * 1024


def application(environ, start_response):
    """Answer one request (PEP 3333)."""
    view = VIEWS.get(environ["PATH_INFO"], not_found)
    return view(environ, start_response)


def page(environ, start_response):
    me = whoami(environ)
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in received_headers(environ)
    )
    filled = PAGE.replace("{{index}}", str(me["index"])).replace("{{pid}}", str(me["pid"]))
    filled = filled.replace("{{base}}", html.escape(environ["SCRIPT_NAME"])).replace("{{headers}}", rows)
    return answer(start_response, "200 OK", "text/html; charset=utf-8", filled)


def whoami_json(environ, start_response):
    return answer_json(start_response, whoami(environ))


def slow(environ, start_response):
    wanted = parse_qs(environ["QUERY_STRING"]).get("ms", ["1000"])[0]
    if not (wanted.isascii() and wanted.isdigit()):
        return answer(
            start_response, "400 Bad Request", "text/plain; charset=utf-8", "ms is a number of milliseconds\n"
        )
    slept = min(int(wanted[:9]), MAX_SLOW_MS)
    time.sleep(slept / 1000)
    return answer_json(start_response, {**whoami(environ), "slept_ms": slept})


def upload(environ, start_response):
    """Read the body as it comes, so that its size does not matter."""
    digest, size = hashlib.sha256(), 0
    for block in iter(lambda: environ["wsgi.input"].read(BLOCK_BYTES), b""):
        digest.update(block)
        size += len(block)
    return answer_json(start_response, {**whoami(environ), "bytes": size, "sha256": digest.hexdigest()})


def stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return slow_lines(whoami(environ)["index"])


def slow_lines(index):
    for number in range(1, 11):
        yield f"line {number} of 10 from process {index}\n".encode()
        time.sleep(0.2)


def healthz(environ, start_response):
    return answer(start_response, "200 OK", "text/plain; charset=utf-8", "ok\n")


def boom(environ, start_response):
    raise RuntimeError("boom, as you asked")


def not_found(environ, start_response):
    return answer(start_response, "404 Not Found", "text/plain; charset=utf-8", "nothing here\n")


VIEWS = {
    "/": page,
    "/api/whoami": whoami_json,
    "/slow": slow,
    "/upload": upload,
    "/stream": stream,
    "/healthz": healthz,
    "/boom": boom,
}


def whoami(environ):
    """Say which process this is: the proxy names it NAME/INDEX."""
    index = environ.get("greenproxy.process", "").rpartition("/")[2]
    return {"index": int(index) if index.isdigit() else 0, "pid": os.getpid()}


def received_headers(environ):
    """Return the request headers as this application received them."""
    received = []
    for key, value in environ.items():
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = key[5:] if key.startswith("HTTP_") else key
            received.append((name.replace("_", "-").title(), value))
    return sorted(received)


def answer_json(start_response, value):
    return answer(start_response, "200 OK", "application/json", json.dumps(value) + "\n")


def answer(start_response, status, content_type, text):
    body = text.encode("utf-8", "replace")
    start_response(
        status,
        [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")],
    )
    return [body]
