"""One file per voice; each imports its heavy library only when it is asked for."""
