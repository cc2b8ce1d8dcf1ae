"""Checkpoint in, engine folder out; needs the `build` extra."""
