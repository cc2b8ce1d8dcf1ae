"""Utterances in, transcripts out: spectrogram, engine, greedy decoding, guards."""
