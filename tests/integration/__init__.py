"""Tests against real processes: the proxy runs as a user would start it."""
