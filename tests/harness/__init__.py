"""The shared toolkit of the tests: a running proxy, origins, a raw client, and one way to wait."""
