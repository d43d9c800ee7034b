"""greenproxy: a secure, scalable reverse proxy and load balancer for WSGI shops."""

__version__ = "0.1.0"
