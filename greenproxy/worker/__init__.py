"""What the children run: workers, the checker, and the host of a WSGI application."""
