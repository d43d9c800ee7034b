"""The parent of all processes: starts, watches, replaces and stops them; never sees a client's byte."""
