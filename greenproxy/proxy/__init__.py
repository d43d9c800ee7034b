"""Carry an exchange to a server and its answer back."""
