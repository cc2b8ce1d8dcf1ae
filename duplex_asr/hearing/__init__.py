"""Frames in, utterances out: when somebody speaks, from where to where, and why it ended."""
