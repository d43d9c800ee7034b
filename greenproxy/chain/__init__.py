"""What happens to a request between the listener and its upstream, composed once at start-up."""
