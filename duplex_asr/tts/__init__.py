"""Texts in, speech out: sentences as tokens come, voices, where the words are in their sound."""
