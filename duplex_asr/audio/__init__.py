"""Sound at the edge: devices, recordings and rates become 16 kHz mono frames."""
