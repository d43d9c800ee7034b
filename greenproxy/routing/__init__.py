"""Which route a request takes. Pure: no sockets, no clock, no chance."""
