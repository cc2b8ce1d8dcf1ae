"""One set of weights in the forms that other programs read, for gpu_peers.py and cpu_peers.py."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.hugging_face import hugging_face_name
from duplex_asr.asr.tokenizer import Tokenizer


class Absent(Exception):
    """Why a peer cannot be measured here."""


@dataclass(frozen=True)
class Job:
    """What every peer is given. tensors: by OpenAI's names; mel: float32 (n_mels, 3000)."""

    name: str
    tensors: dict[str, np.ndarray[Any, Any]]
    dimensions: ModelDimensions
    mel: np.ndarray[Any, Any]
    tokenizer: Tokenizer
    num_tokens: int
    device: str = "cuda"

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.tokenizer.prompt()

    @property
    def suppressed(self) -> tuple[int, ...]:
        """Tokens that are never chosen, the end token among them."""
        return (*self.tokenizer.suppressed_tokens, self.tokenizer.eot)


_PACKAGES = {"whisper": "openai-whisper", "_pywhispercpp": "pywhispercpp"}


def need(*modules: str) -> None:
    """Raise Absent unless all modules are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Absent(f"the package {_PACKAGES.get(module, module)} is not installed")


def transformers_model(job: Job) -> Any:
    """WhisperForConditionalGeneration with our weights, float32 on the CPU."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    dims, eot = job.dimensions, job.tokenizer.eot
    config = WhisperConfig(
        vocab_size=dims.n_vocab, num_mel_bins=dims.n_mels, d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer, encoder_attention_heads=dims.n_audio_head,
        decoder_layers=dims.n_text_layer, decoder_attention_heads=dims.n_text_head,
        encoder_ffn_dim=4 * dims.n_audio_state, decoder_ffn_dim=4 * dims.n_audio_state,
        max_source_positions=dims.n_audio_ctx, max_target_positions=dims.n_text_ctx,
        decoder_start_token_id=job.prompt[0], eos_token_id=eot, pad_token_id=eot, bos_token_id=eot,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    state = {
        f"model.{hugging_face_name(name)}": torch.from_numpy(values).float()
        for name, values in job.tensors.items()
    }
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return model.eval()


def transformers_generation_config(job: Job) -> Any:
    """Greedy decoding that suppresses what ours does; the prompt is given with each call."""
    from transformers import GenerationConfig

    eot = job.tokenizer.eot
    return GenerationConfig(
        decoder_start_token_id=job.prompt[0], eos_token_id=eot, pad_token_id=eot,
        no_timestamps_token_id=job.tokenizer.no_timestamps, is_multilingual=False,
        return_timestamps=False,
        suppress_tokens=list(job.suppressed), max_length=job.dimensions.n_text_ctx,
        do_sample=False, num_beams=1,
    )  # fmt: skip
