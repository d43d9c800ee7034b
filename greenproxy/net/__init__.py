"""Sockets under gevent: waiting without overhead, and deadlines that cost nothing per request."""
