"""What is told about the traffic and the processes: logs and, later, metrics."""
