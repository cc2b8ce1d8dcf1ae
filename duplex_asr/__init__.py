"""On-device speech recognition service: microphone or file in, transcripts on a Unix socket out."""

__version__ = "0.1.0"
