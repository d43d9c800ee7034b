"""Which server gets the next attempt. Pure: no sockets, no clock."""
