"""HTTP/1.1 as values: heads, targets, headers, bodies. Nearly all of it is pure."""
