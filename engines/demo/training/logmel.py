"""Log-mel spectrograms on the training device: openai-whisper's, plus two ways to vary a voice."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16000
N_FFT = 400
HOP = 160
SHORTEST_HOP = 0.84 * HOP  # speech slowed down by a fifth
N_MELS = 80


def hertz_of_mel(mel: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz (mel 15), logarithmic above."""
    linear = mel * 200.0 / 3
    return np.where(mel < 15, linear, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


def mel_filters(warp: float = 1.0) -> np.ndarray:
    """Triangular filters, shape (80, 201); warp > 1 moves the voice's formants down."""
    top = 15 + 27 * math.log(8.0) / math.log(6.4)  # mel of 8 kHz
    edges = hertz_of_mel(np.linspace(0, top, N_MELS + 2)) * warp
    frequencies = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[:, None] - frequencies[None, :]
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.maximum(0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)


class LogMel:
    """Batches of log-mel spectrograms with a filterbank and a hop of each window's own.

    A warped filterbank imitates another vocal tract; a hop other than 160 samples changes the
    speed without changing the pitch. At warp 1 and hop 160 the result is Whisper's.
    """

    def __init__(self, device: torch.device) -> None:
        self.warps = np.linspace(0.82, 1.22, 41)
        filters = np.stack([mel_filters(float(warp)) for warp in self.warps])
        self.filters = torch.from_numpy(filters).to(device)
        self.plain = torch.from_numpy(mel_filters()).to(device)
        self.window = torch.hann_window(N_FFT, device=device)
        self.taps = torch.arange(N_FFT, device=device)

    def __call__(
        self, waves: Tensor, n_frames: int, hops: Tensor | None = None, warps: Tensor | None = None
    ) -> Tensor:
        """waves (batch, samples), zeros after them -> (batch, 80, n_frames).

        hops: samples per column, (batch,) float. warps: index into `self.warps`, (batch,).
        """
        batch, samples = waves.shape
        if hops is None:
            hops = torch.full((batch,), float(HOP), device=waves.device)
        heard = min(n_frames, math.ceil(samples / SHORTEST_HOP) + 2)
        left = waves[:, 1 : N_FFT // 2 + 1].flip(1)  # Whisper's STFT reflects the first samples
        padded = torch.cat([left, waves, waves.new_zeros(batch, N_FFT)], dim=1)
        columns = torch.arange(heard, device=waves.device)
        starts = (columns[None, :] * hops[:, None]).round().long().clamp(max=samples + N_FFT // 2)
        index = starts[:, :, None] + self.taps
        frames = padded.gather(1, index.flatten(1)).view(batch, heard, N_FFT)
        power = torch.fft.rfft(frames * self.window).abs().square()
        filters = self.plain.expand(batch, -1, -1) if warps is None else self.filters[warps]
        mel = torch.bmm(filters, power.transpose(1, 2))
        log = torch.full((batch, N_MELS, n_frames), -10.0, device=waves.device)
        log[:, :, :heard] = mel.clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0
