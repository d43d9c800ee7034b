"""The admin API: what the proxy says of itself, in a process of its own."""
