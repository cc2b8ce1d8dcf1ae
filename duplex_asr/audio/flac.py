"""Samples in, the bytes of a FLAC file out."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from duplex_asr.audio.frames import SAMPLE_RATE, Samples


def encode_flac(samples: Samples) -> bytes:
    """The samples (16 kHz, float32, shape = (n,)) with 16 bits each; what is beyond full scale is
    cut."""
    file = io.BytesIO()
    clipped = np.clip(samples, -1.0, 1.0)
    soundfile.write(file, clipped, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
