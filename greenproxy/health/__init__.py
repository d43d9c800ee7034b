"""Which servers are fit for traffic: probes, live failures, and the table all processes share."""
