"""Memory shared by all processes; LAYOUT.md has the map."""
