"""For whoever wants to know why it heard what it heard: saved utterances, pictures of a run."""
