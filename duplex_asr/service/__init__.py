"""What other programs see: events, the two sockets and a client."""
