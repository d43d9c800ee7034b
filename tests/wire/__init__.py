"""Raw request bytes on the wire: what the proxy accepts, what it refuses, and what the upstream saw."""
