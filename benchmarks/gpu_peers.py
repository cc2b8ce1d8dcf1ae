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
from pathlib import Path

from ctranslate2_folder import save_ctranslate2
from peer_weights import Absent, Job, transformers_generation_config, transformers_model

Run = Callable[[], list[int]]
MODULES = {
    "PyTorch CUDA graph": "torch",
    "transformers": "transformers",
    "openai-whisper": "whisper",
    "CTranslate2 (faster-whisper)": "ctranslate2",
    "whisper.cpp (pywhispercpp)": "pywhispercpp",
}


def open_peer(name: str, job: Job) -> Run:
    """A function that runs one peer once; raises Absent."""
    module = MODULES[name]
    if module == "pywhispercpp":
        raise Absent("its wheel has no CUDA code, and it takes ggml files only")
    if importlib.util.find_spec(module) is None:
        raise Absent(f"the package {module} is not installed")
    if module != "ctranslate2" and importlib.util.find_spec("torch") is None:
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


def _transformers(job: Job) -> Run:
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    model = transformers_model(job).to(job.device)
    if job.device == "cuda":
        model = model.half()
    model.generation_config = transformers_generation_config(job)
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


def _ctranslate2(job: Job) -> Run:
    import ctranslate2

    if job.device == "cuda":
        try:
            ctypes.CDLL("libcublas.so.12")
        except OSError as error:
            raise Absent(f"ctranslate2 {ctranslate2.__version__} needs CUDA 12: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        save_ctranslate2(job, Path(folder), "float16" if job.device == "cuda" else None)
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
