"""Turn composed batches into sound on the training device: rooms, microphones, noise, level.

All clips stay on the device as one long tensor; a whole batch is rendered with a few gathers and
Fourier transforms, so that the training never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from compose import Batch
from pack_clips import Clip
from torch import Tensor

RATE = 16000
RESPONSE = RATE // 2  # samples of a room response
N_BANDS = 12  # control points of a random frequency response


class Renderer:
    def __init__(
        self, sound: Tensor, clips: Sequence[Clip], max_samples: int, device: torch.device
    ) -> None:
        self.sound, self.max_samples, self.device = sound, max_samples, device
        self.n_fft = 1 << (max_samples + RESPONSE - 1).bit_length()
        noises = [clip for clip in clips if clip.group == "noise"]
        rooms = [clip for clip in clips if clip.group == "room"]
        self.noise_start = torch.tensor([clip.start for clip in noises], device=device)
        self.noise_length = torch.tensor([clip.length for clip in noises], device=device)
        self.rooms = torch.stack([self.measured_response(clip) for clip in rooms])
        self.hertz = torch.fft.rfftfreq(self.n_fft, 1 / RATE).to(device)
        self.bands = self.band_weights()
        self.taps = torch.arange(-1, 3, device=device)

    def measured_response(self, clip: Clip) -> Tensor:
        """Half a second of a measured room from its direct sound on, unit peak."""
        response = self.sound[clip.start : clip.start + clip.length]
        peak = int(response.abs().argmax())
        response = response[peak : peak + RESPONSE]
        response = torch.nn.functional.pad(response, (0, RESPONSE - len(response)))
        return response / response[0]

    def band_weights(self) -> Tensor:
        """Linear interpolation from control points on a mel-like axis, (N_BANDS, frequencies)."""
        place = torch.log1p(self.hertz / 300) / math.log1p(8000 / 300) * (N_BANDS - 1)
        points = torch.arange(N_BANDS, device=self.device)
        return (1 - (place[None, :] - points[:, None]).abs()).clamp(min=0)

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        return torch.empty(count, device=self.device).uniform_(low, high)

    def chance(self, count: int, probability: float) -> Tensor:
        return torch.rand(count, device=self.device) < probability

    def __call__(self, batch: Batch) -> Tensor:
        """Sound of the windows, (batch, max_samples) float32; exact zeros after each one's end."""
        count, max_samples = len(batch.end), self.max_samples
        position = torch.arange(max_samples, device=self.device)
        within = position[None, :] < batch.end[:, None]
        speech = self.through_room_and_microphone(*self.place_pieces(batch))
        active = torch.zeros(count, device=self.device)
        active.index_add_(0, batch.window, batch.duration.float())
        waves = speech[:, :max_samples] * within
        rms = (waves.square().sum(1) / active.clamp(min=1)).sqrt()
        waves = waves + self.noise(count, max_samples, rms, batch.silent)
        waves = self.level_and_damage(waves, active > 0, batch.silent)
        return waves * within

    def place_pieces(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Resampled clips added into their windows: all of them, and the narrow-band ones alone."""
        count, pieces, max_samples = len(batch.end), len(batch.source), self.max_samples
        piece = torch.repeat_interleave(
            torch.arange(pieces, device=self.device), batch.duration, output_size=batch.total
        )
        first = batch.duration.cumsum(0) - batch.duration
        offset = torch.arange(batch.total, device=self.device) - first[piece]
        inside = offset * batch.speed[piece]
        inside = torch.where(batch.backwards[piece], batch.length[piece] - 1 - inside, inside)
        inside = inside.clamp(min=0)
        whole = inside.floor()
        t = inside - whole
        tap = (whole.long()[:, None] + self.taps).clamp(min=0)
        tap = torch.minimum(tap, (batch.length[piece] - 1)[:, None]) + batch.source[piece][:, None]
        a, b, c, d = self.sound[tap].unbind(1)
        # Catmull-Rom interpolation between b and c
        value = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        left = (batch.duration[piece] - 1 - offset).float()
        fade = (torch.minimum(offset.float(), left) / 64).clamp(max=1)  # 4 ms
        value = value * fade * batch.gain[piece]
        place = batch.destination[piece] + offset
        value = torch.where((place >= 0) & (place < max_samples), value, 0.0)
        place = batch.window[piece] * max_samples + place.clamp(0, max_samples - 1)
        everything = torch.zeros(count * max_samples, device=self.device)
        narrow = torch.zeros_like(everything)
        everything.index_add_(0, place, value)
        narrow.index_add_(0, place, value * batch.narrow[piece])
        return everything.view(count, -1), narrow.view(count, -1)

    def through_room_and_microphone(self, waves: Tensor, narrow: Tensor) -> Tensor:
        """Filter each window with a random room, microphone and band limit, (batch, self.n_fft)."""
        count = len(waves)
        spectrum = torch.fft.rfft(waves, self.n_fft)
        spectrum = spectrum + self.band_extension(narrow)
        response = torch.fft.rfft(self.room_responses(count), self.n_fft)
        magnitude = self.microphone_responses(count)
        return torch.fft.irfft(spectrum * response * magnitude, self.n_fft)

    def band_extension(self, narrow: Tensor) -> Tensor:
        """Mirror 8 kHz recordings around 4 kHz in half of the windows.

        The digits have nothing above 4 kHz, where other microphones have sound; without this the
        network takes sound above 4 kHz for a sign of everything but digits.
        """
        count = len(narrow)
        sign = 1 - 2 * (torch.arange(narrow.shape[1], device=self.device) % 2)
        mirrored = torch.fft.rfft(narrow * sign, self.n_fft)
        gain_db = self.uniform(count, -30, 0)
        tilt_db = self.uniform(count, -25, -5)  # from 4 to 8 kHz
        above = ((self.hertz - 3600) / 400).clamp(0, 1)
        slope = (self.hertz - 4000).clamp(min=0) / 4000
        decibel = gain_db[:, None] + tilt_db[:, None] * slope[None, :]
        used = self.chance(count, 0.55)[:, None]
        return mirrored * (10 ** (decibel / 20) * above * used)

    def room_responses(self, count: int) -> Tensor:
        """None in 40 %, else exponentially decaying noise, or (10 %) the measured rooms."""
        time = torch.arange(RESPONSE, device=self.device) / RATE
        decay = -6.9 / self.uniform(count, 0.08, 0.7)  # -60 dB after 80 to 700 ms
        tail = torch.randn(count, RESPONSE, device=self.device) * (decay[:, None] * time).exp()
        delay = self.uniform(count, 0.001, 0.02)
        tail = tail * (time[None, :] > delay[:, None])
        energy = tail.square().sum(1, keepdim=True).sqrt()
        ratio_db = self.uniform(count, -22, 2)  # reverberant to direct sound
        response = tail / energy * (10 ** (ratio_db / 20))[:, None]
        response = response * self.chance(count, 0.6)[:, None]
        measured = self.rooms[torch.randint(len(self.rooms), (count,), device=self.device)]
        response = torch.where(self.chance(count, 0.1)[:, None], measured, response)
        response[:, 0] = 1.0
        return response

    def microphone_responses(self, count: int) -> Tensor:
        """Random equaliser, high-pass and low-pass as magnitudes, (batch, frequencies)."""
        strength = self.uniform(count, 0, 7) * self.chance(count, 0.8)
        points = torch.randn(count, N_BANDS, device=self.device) * strength[:, None]
        slope = torch.linspace(-1, 1, N_BANDS, device=self.device)
        points = points + slope * self.uniform(count, -10, 10)[:, None]
        magnitude = 10 ** ((points @ self.bands) / 20)
        low = self.uniform(count, 40, 350) * self.chance(count, 0.5)
        telephone, wide = self.uniform(count, 3200, 4200), self.uniform(count, 4200, 7900)
        high = torch.where(self.chance(count, 0.6), telephone, wide)
        high = torch.where(self.chance(count, 0.5), high, 1e6)
        hertz = self.hertz[None, :]
        magnitude = magnitude * (1 - torch.exp(-((hertz / (low[:, None] + 1)) ** 2)))
        return magnitude / (1 + (hertz / high[:, None]) ** 24)

    def noise(self, count: int, samples: int, speech_rms: Tensor, silent: Tensor) -> Tensor:
        """Coloured or recorded noise, 0 to 45 dB below the speech; any level where none is."""
        white = torch.fft.rfft(torch.randn(count, samples, device=self.device), self.n_fft)
        flat = self.chance(count, 0.35)[:, None]
        colour = self.uniform(count, -0.1, 1.2)[:, None] * ~flat  # 0 white, 0.5 pink, 1 brown
        magnitude = (self.hertz.clamp(min=30) / 1000)[None, :] ** -colour
        points = torch.randn(count, N_BANDS, device=self.device) * torch.where(flat, 1.0, 6.0)
        magnitude = magnitude * 10 ** ((points @ self.bands) / 20)
        noise = torch.fft.irfft(white * magnitude, self.n_fft)[:, :samples]
        recorded = self.recorded_noise(count, samples)
        use = self.chance(count, 0.4)[:, None]
        noise = torch.where(use, recorded, noise)
        noise = noise * self.slow_changes(count, samples)
        noise = noise / (noise.square().mean(1, keepdim=True).sqrt() + 1e-8)
        below_db = torch.where(
            self.chance(count, 0.5), self.uniform(count, 15, 50), self.uniform(count, 0, 20)
        )
        quiet = speech_rms <= 1e-6
        level = torch.where(quiet, 0.1, speech_rms * 10 ** (-below_db / 20))
        level = level * ~(self.chance(count, 0.12) & ~quiet) * ~silent
        return noise * level[:, None]

    def recorded_noise(self, count: int, samples: int) -> Tensor:
        which = torch.randint(len(self.noise_start), (count,), device=self.device)
        length = self.noise_length[which]
        begin = (torch.rand(count, device=self.device) * length).long()
        step = self.uniform(count, 0.7, 1.4)
        walk = (torch.arange(samples, device=self.device) * step[:, None]).long()
        place = (begin[:, None] + walk) % length[:, None]
        return self.sound[self.noise_start[which][:, None] + place]

    def slow_changes(self, count: int, samples: int) -> Tensor:
        """Level of the noise over time: steady in half of the windows."""
        points = torch.randn(count, 1, 24, device=self.device) * 0.8
        points = points * self.chance(count, 0.5)[:, None, None]
        curve = torch.nn.functional.interpolate(points, samples, mode="linear")[:, 0]
        return curve.exp()

    def level_and_damage(self, waves: Tensor, speech: Tensor, silent: Tensor) -> Tensor:
        """Loudness, clicks, offset, clipping and 16-bit rounding, as cheap recorders have."""
        count, samples = waves.shape
        clicks = torch.zeros_like(waves)
        for _ in range(3):
            at = torch.randint(samples, (count, 1), device=self.device)
            clicks.scatter_(1, at, self.uniform(count, -1, 1)[:, None])
        ring = torch.randn(count, 1600, device=self.device)
        fall = -torch.arange(1600, device=self.device) / (self.uniform(count, 2, 300)[:, None])
        shape = torch.fft.rfft(ring * fall.exp(), self.n_fft)
        spectrum = torch.fft.rfft(clicks, self.n_fft) * shape
        clicks = torch.fft.irfft(spectrum, self.n_fft)[:, :samples]
        clicks = clicks * self.chance(count, 0.10)[:, None] * ~silent[:, None]
        peak = waves.abs().amax(1, keepdim=True).clamp(min=1e-6)
        waves = waves / peak + clicks * self.uniform(count, 0.02, 1.0)[:, None]
        level_db = torch.where(speech, self.uniform(count, -32, -1), self.uniform(count, -65, -3))
        waves = waves * (10 ** (level_db / 20) * ~silent)[:, None]
        hiss = 10 ** (self.uniform(count, -100, -55) / 20) * self.chance(count, 0.7)
        waves = waves + torch.randn_like(waves) * hiss[:, None]
        waves = waves + (self.uniform(count, -0.01, 0.01) * self.chance(count, 0.15))[:, None]
        overdrive = torch.where(self.chance(count, 0.05), self.uniform(count, 2, 8), 1.0)
        waves = (waves * overdrive[:, None]).clamp(-1, 1)
        rounded = (waves * 32767).round() / 32767
        return torch.where(self.chance(count, 0.6)[:, None], rounded, waves)
