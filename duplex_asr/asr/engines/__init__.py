"""One file per back end; each imports its heavy library only when it is asked for."""
