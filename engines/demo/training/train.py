"""Train the demo engine from a pack of clips.

    python train.py PACK_FOLDER OUTPUT_FOLDER --held-out SPEAKER   # to measure
    python train.py PACK_FOLDER OUTPUT_FOLDER                      # to ship: learns from everything

Two phases: short windows, which are cheap and hold most words, then Whisper's 30 s windows. Writes
`checkpoint.pt` in OpenAI's format (averaged weights, half precision), every few hundred steps and
at the end, and `results.json` when a speaker is held out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from compose import IGNORED, Batch, BatchStream
from evaluate import evaluate, print_results, test_sets
from logmel import HOP, SHORTEST_HOP, LogMel
from model import ModelDimensions, TrainableWhisper, export_checkpoint
from pack_clips import load_pack
from render import Renderer
from splits import split
from torch import Tensor, nn
from words import EOT, N_BYTES

RATE = 16000


@dataclass(frozen=True)
class Phase:
    """Windows of one length. `until` is the share of the training after which it ends."""

    until: float
    batch: int
    max_seconds: float  # sound in a window
    n_frames: int  # mel columns the encoder sees


FULL_PHASES = (Phase(0.35, 192, 3.5, 420), Phase(0.75, 128, 7.5, 900), Phase(1.0, 64, 13.0, 3000))
# to try the program on a CPU
TINY_PHASES = (Phase(0.3, 8, 3.5, 420), Phase(0.6, 4, 7.5, 900), Phase(1.0, 2, 13.0, 3000))


class Averager:
    """Exponential moving average of the weights, which is what gets evaluated and shipped."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = [value.detach() for value in network.state_dict().values()]
        torch._foreach_lerp_(list(self.state.values()), current, 1 - decay)


class Trainer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        torch.manual_seed(options.seed)
        self.sound, self.clips = load_pack(options.pack)
        self.train_clips, _ = split(self.clips, options.held_out)
        self.log_mel = LogMel(self.device)
        dims = ModelDimensions(
            n_audio_layer=options.encoder_layers, n_text_layer=options.decoder_layers
        )
        self.network = TrainableWhisper(dims, options.dropout).to(self.device)
        if options.start_from:
            self.load_weights(options.start_from)
        self.average = Averager(self.network, options.average_decay)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            betas=(0.9, 0.98), fused=self.device.type == "cuda",
        )  # fmt: skip
        self.step, self.started = 0, time.monotonic()

    def load_weights(self, path: Path) -> None:
        """Go on from a checkpoint; the CTC layer, which is not in it, starts afresh."""
        weights = torch.load(path, map_location=self.device, weights_only=True)
        state = self.network.state_dict()
        state.update({k: v.float() for k, v in weights["model_state_dict"].items()})
        self.network.load_state_dict(state)

    def progress(self) -> float:
        """0 to 1, by steps or by the clock, whichever is further."""
        elapsed = (time.monotonic() - self.started) / 60
        return max(self.step / self.options.steps, elapsed / self.options.minutes)

    def features(self, batch: Batch, phase: Phase) -> Tensor:
        """Sound -> log-mel (batch, 80, frames), voices varied and a few bands or moments masked."""
        waves = self.renderer(batch)
        count = len(waves)
        uniform, chance = self.renderer.uniform, self.renderer.chance
        hops = torch.where(chance(count, 0.3), HOP, uniform(count, SHORTEST_HOP, 1.2 * HOP))
        warps = torch.randint(len(self.log_mel.warps), (count,), device=self.device)
        plain = int((self.log_mel.warps < 1.001).sum()) - 1
        warps = torch.where(chance(count, 0.25), plain, warps)
        mel = self.log_mel(waves, phase.n_frames, hops, warps)
        return self.mask(mel)

    def mask(self, mel: Tensor) -> Tensor:
        """Hide up to two stripes of mel bands and one of time, in half of the windows each."""
        count, bands, frames = mel.shape
        lowest = mel.amin(dim=(1, 2), keepdim=True)
        for axis, size, widest in ((1, bands, 9), (1, bands, 9), (2, min(frames, 700), 12)):
            width = self.renderer.uniform(count, 0, widest) * self.renderer.chance(count, 0.5)
            begin = self.renderer.uniform(count, 0, size)
            place = torch.arange(mel.shape[axis], device=self.device)
            hidden = (place >= begin[:, None]) & (place < (begin + width)[:, None])
            hidden = hidden[:, :, None] if axis == 1 else hidden[:, None, :]
            mel = torch.where(hidden, lowest, mel)
        return mel

    def loss(self, batch: Batch, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the text, and CTC, which makes the encoder find the words by itself."""
        weights = self.network.named_parameters(), self.network.named_buffers()
        half = {name: value.bfloat16() for name, value in chain(*weights)}
        inputs = (mel.bfloat16(), batch.inputs)
        logits, ctc_logits = torch.func.functional_call(self.network, half, inputs)
        targets = batch.targets.flatten()
        text_loss = F.cross_entropy(
            logits.flatten(0, 1), targets, ignore_index=IGNORED, label_smoothing=0.03
        )
        columns = min(ctc_logits.shape[1], 800)
        is_word = (batch.targets < EOT) & (batch.targets >= 0)
        order = torch.argsort((~is_word).int(), dim=1, stable=True)  # the words first
        labels = (batch.targets.gather(1, order) - N_BYTES + 1).clamp(min=0)
        labels = torch.where(is_word.gather(1, order), labels, 0)
        lengths = torch.full_like(batch.n_words, columns)
        log_probs = ctc_logits[:, :columns].log_softmax(-1).transpose(0, 1)
        ctc = F.ctc_loss(log_probs, labels, lengths, batch.n_words, reduction="none",
                         zero_infinity=True)  # fmt: skip
        return text_loss, (ctc / (batch.n_words + 1)).mean()

    def train_step(self, batch: Batch, phase: Phase) -> tuple[Tensor, Tensor]:
        progress = self.progress()
        warm = min(1.0, (self.step + 1) / self.options.warmup)
        rate = self.options.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = batch.to(self.device)
        with torch.no_grad():
            mel = self.features(batch, phase)
        text_loss, ctc_loss = self.loss(batch, mel)
        (text_loss + 0.3 * (1 - 0.7 * progress) * ctc_loss).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network)
        self.step += 1
        return text_loss.detach(), ctc_loss.detach()

    def run(self) -> None:
        phases = TINY_PHASES if self.options.tiny else FULL_PHASES
        sound = torch.from_numpy(self.sound).to(self.device)
        for number, phase in enumerate(phases):
            max_samples = int(phase.max_seconds * RATE)
            self.renderer = Renderer(sound, self.train_clips, max_samples, self.device)
            stream = BatchStream(
                self.train_clips, phase.batch, phase.max_seconds, self.options.seed + number
            )
            loader = torch.utils.data.DataLoader(
                stream, batch_size=None, num_workers=self.options.workers,
                pin_memory=self.device.type == "cuda",
            )  # fmt: skip
            for batch in loader:
                losses = self.train_step(batch, phase)
                if self.step % 100 == 0 or self.options.tiny:
                    self.report(losses)
                if self.step % 2000 == 0:
                    self.save()
                if self.progress() >= phase.until:
                    break
        self.save()

    def report(self, losses: tuple[Tensor, Tensor]) -> None:
        text, ctc = (float(loss) for loss in losses)
        minutes = (time.monotonic() - self.started) / 60
        print(f"{minutes:6.2f} min  step {self.step:6}  text {text:.4f}  ctc {ctc:.4f}", flush=True)

    def save(self) -> None:
        checkpoint = export_checkpoint(self.average.state, self.network.dims)
        torch.save(checkpoint, self.options.output / "checkpoint.pt")

    def measure(self) -> None:
        """Evaluate the averaged weights, rounded to half precision as they are shipped."""
        rounded = {name: value.half().float() for name, value in self.average.state.items()}
        self.network.load_state_dict(rounded)
        self.network.eval()
        tests = test_sets(self.sound, self.clips, self.options.held_out)
        thresholds = (0.5, 0.7, 0.85, 0.95)
        results = evaluate(self.network, tests, self.device, thresholds)
        print_results(results)
        (self.options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--held-out", help="digits speaker for the test; none to ship")
    parser.add_argument("--start-from", type=Path, help="checkpoint of an earlier training")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--encoder-layers", type=int, default=3)
    parser.add_argument("--decoder-layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--average-decay", type=float, default=0.999)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny batches, to try it on a CPU")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(options)
    trainer.run()
    if options.held_out:
        trainer.measure()


if __name__ == "__main__":
    main()
