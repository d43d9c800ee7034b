// The paper's stack as make bench runs it: http-proxy in one process, connections to the origin kept alive.
// Usage: node node_proxy.js LISTEN_PORT ORIGIN_PORT
const http = require('http');
const httpProxy = require('http-proxy');

const [listenPort, originPort] = process.argv.slice(2).map(Number);
const proxy = httpProxy.createProxyServer({
  target: { host: '127.0.0.1', port: originPort },
  agent: new http.Agent({ keepAlive: true }),
  xfwd: true,
});
proxy.on('error', (error, request, response) => {
  response.writeHead(502);
  response.end();
});
http.createServer((request, response) => proxy.web(request, response)).listen(listenPort, '127.0.0.1', 1024);
