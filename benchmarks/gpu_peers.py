"""Other programs that run Whisper on a GPU, each as a function from a spectrogram to its tokens.

`open_peer` raises Absent with the reason where a program is not installed or cannot use the GPU.
All get the same weights in half precision and decode exactly `num_tokens`: the end token is among
the suppressed ones.
"""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from duplex_asr.asr.engine import ModelDimensions
from duplex_asr.asr.tokenizer import Tokenizer

Run = Callable[[], list[int]]
MODULES = {
    "PyTorch CUDA graph": "torch",
    "transformers": "transformers",
    "openai-whisper": "whisper",
    "CTranslate2 (faster-whisper)": "ctranslate2",
    "whisper.cpp (pywhispercpp)": "pywhispercpp",
}


class Absent(Exception):
    """Why a peer cannot be measured here."""


@dataclass(frozen=True)
class Job:
    """What every peer is given."""

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
        return (*self.tokenizer.suppressed_tokens, self.tokenizer.eot)


def open_peer(name: str, job: Job) -> Run:
    """A function that runs one peer once; raises Absent."""
    module = MODULES[name]
    if module == "pywhispercpp":
        raise Absent("its wheel has no CUDA code, and it takes ggml files only")
    if importlib.util.find_spec(module) is None:
        raise Absent(f"the package {module} is not installed")
    if importlib.util.find_spec("torch") is None:
        raise Absent("needs torch, which is not installed")
    opened = {
        "torch": _torch_graph,
        "transformers": _transformers,
        "whisper": _openai_whisper,
        "ctranslate2": _ctranslate2,
    }[module]
    return opened(job)


def _torch_graph(job: Job) -> Run:
    import torch
    from torch_graph import GraphWhisper

    dtype = torch.float16 if job.device == "cuda" else torch.float32
    model = GraphWhisper(job.tensors, job.dimensions, job.prompt, job.suppressed, job.device, dtype)
    return lambda: model.tokens_of(job.mel, job.num_tokens)


def _transformers_model(job: Job) -> Any:
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
        _transformers_name(name): torch.from_numpy(values).float()
        for name, values in job.tensors.items()
    }
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return model.eval()


_TRANSFORMERS_NAMES = (
    (".blocks.", ".layers."), (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".attn_ln.", ".self_attn_layer_norm."), (".mlp_ln.", ".final_layer_norm."),
    (".cross_attn.", ".encoder_attn."), (".attn.", ".self_attn."), (".query.", ".q_proj."),
    (".key.", ".k_proj."), (".value.", ".v_proj."), (".out.", ".out_proj."),
    (".mlp.0.", ".fc1."), (".mlp.2.", ".fc2."), ("encoder.ln_post.", "encoder.layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."), ("token_embedding.", "embed_tokens."),
    (".positional_embedding", ".embed_positions.weight"),
)  # fmt: skip


def _transformers_name(name: str) -> str:
    for ours, theirs in _TRANSFORMERS_NAMES:
        name = name.replace(ours, theirs)
    return f"model.{name}"


def _transformers(job: Job) -> Run:
    import torch
    from transformers import GenerationConfig, logging

    logging.set_verbosity_error()
    eot = job.tokenizer.eot
    model = _transformers_model(job).to(job.device)
    if job.device == "cuda":
        model = model.half()
    model.generation_config = GenerationConfig(
        decoder_start_token_id=job.prompt[0], eos_token_id=eot, pad_token_id=eot,
        no_timestamps_token_id=job.tokenizer.no_timestamps, is_multilingual=False,
        return_timestamps=False,
        suppress_tokens=list(job.suppressed), max_length=job.dimensions.n_text_ctx,
        do_sample=False, num_beams=1,
    )  # fmt: skip
    prompt = torch.tensor([job.prompt], device=job.device)

    def run() -> list[int]:
        features = torch.from_numpy(job.mel)[None].to(job.device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(
                features, decoder_input_ids=prompt, max_new_tokens=job.num_tokens,
                min_new_tokens=job.num_tokens,
            )[0].tolist()  # fmt: skip
        return tokens[-job.num_tokens :]

    return run


def _openai_whisper(job: Job) -> Run:
    import torch
    import whisper

    model = whisper.model.Whisper(whisper.model.ModelDimensions(**vars(job.dimensions)))
    state = {name: torch.from_numpy(values).float() for name, values in job.tensors.items()}
    model.load_state_dict(state, strict=False)
    model = model.to(job.device).eval()
    options = whisper.DecodingOptions(
        language="en", without_timestamps=True, fp16=job.device == "cuda",
        sample_len=job.num_tokens, suppress_tokens=list(job.suppressed),
    )  # fmt: skip
    if job.device == "cuda":
        model = model.half()
        for module in model.modules():  # its norms compute in single precision
            if isinstance(module, torch.nn.LayerNorm):
                module.float()
    return lambda: whisper.decode(model, torch.from_numpy(job.mel).to(job.device), options).tokens  # type: ignore[union-attr]


_CONTROL_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>",
    "<|transcribe|>", "<|translate|>", "<|startofprev|>", "<|startoflm|>", "<|0.00|>",
)  # fmt: skip


def _ctranslate2(job: Job) -> Run:
    if importlib.util.find_spec("transformers") is None:
        raise Absent("its converter needs transformers, which is not installed")
    import ctranslate2
    from ctranslate2.converters.transformers import WhisperLoader

    if job.device == "cuda":
        try:
            ctypes.CDLL("libcublas.so.12")
        except OSError as error:
            raise Absent(f"ctranslate2 {ctranslate2.__version__} needs CUDA 12: {error}") from error
    loader = WhisperLoader()
    spec = loader.get_model_spec(_transformers_model(job))
    names = {job.tokenizer.special(name): name for name in _CONTROL_TOKENS}
    spec.register_vocabulary(
        [names.get(token, f"token {token}") for token in range(job.dimensions.n_vocab)]
    )
    spec.config.suppress_ids = list(job.suppressed)
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = []
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.optimize("float16" if job.device == "cuda" else None)
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        compute = "float16" if job.device == "cuda" else "float32"
        model = ctranslate2.models.Whisper(folder, device=job.device, compute_type=compute)

    def run() -> list[int]:
        features = ctranslate2.StorageView.from_array(job.mel[None])
        result = model.generate(
            features, [list(job.prompt)], beam_size=1, suppress_blank=False,
            max_length=2 * job.num_tokens, suppress_tokens=list(job.suppressed),
        )[0]  # fmt: skip
        return list(result.sequences_ids[0])

    return run
