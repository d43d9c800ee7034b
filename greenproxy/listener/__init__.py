"""Where clients connect: sockets, the strict HTTP/1.1 handler, the server."""
