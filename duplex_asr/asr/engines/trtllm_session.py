"""Whisper in TensorRT-LLM's Python runtime: an encoder `Session` and a `GenerationSession`.

The only one that runs Whisper in 0.12, the last version for Jetson; later versions have it, too.
The runtime shows a function of ours the logits of each step, so that our own rules choose the
token.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.decoding import choose_token, log_softmax, repeats_itself
from duplex_asr.asr.engine import DecodeEnd, Decoding, OnToken, ShouldStop
from duplex_asr.asr.engines.trtllm_config import FIRST_WITH_KV_CACHE_TYPE, TrtLlmConfig
from duplex_asr.asr.engines.trtllm_errors import explained
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.errors import EngineError

_MEL_INPUTS = ("input_features", "x")  # the second name up to 0.11
_NEVER = -6e4  # a logit that is never chosen, and that half precision can hold


@dataclass
class _Steps:
    """Chooses each token when the runtime asks for logits, and says when to stop."""

    tokenizer: Tokenizer
    n_vocab: int
    max_new_tokens: int
    should_stop: ShouldStop | None = None
    stop_on_repetition: bool = True
    on_token: OnToken | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_logits: npt.NDArray[np.float32] | None = None
    end_reason: DecodeEnd | None = None

    def process_logits(self, step: int, ids: Any, logits: Any) -> Any:
        """Leave the runtime one token to choose: ours."""
        scores = logits.float().cpu().numpy().reshape(-1)[: self.n_vocab]
        if self.first_logits is None:
            self.first_logits = scores.copy()
        token, logprob = choose_token(scores, self.tokenizer, self.tokens)
        if self.end_reason is None:
            self.logprobs.append(logprob)
            if token == self.tokenizer.eot:
                self.end_reason = "end_token"
            else:
                self.tokens.append(token)
                if self.on_token is not None:
                    self.on_token(token)
        logits.fill_(_NEVER)
        logits[..., token] = 0.0
        return logits

    def is_done(self, step: int, ids: Any, logits: Any) -> bool:
        """Whether to stop before the next token."""
        if self.end_reason is None:
            if self.stop_on_repetition and repeats_itself(self.tokens):
                self.end_reason = "repetition"
            elif self.should_stop is not None and self.should_stop():
                self.end_reason = "stopped"
            elif len(self.tokens) >= self.max_new_tokens:
                self.end_reason = "max_tokens"
        return self.end_reason is not None


class TrtLlmSession:
    """Both engines in the Python runtime, on a stream of their own."""

    def __init__(self, config: TrtLlmConfig, tokenizer: Tokenizer) -> None:
        """Raises EngineError, with the meaning of each failure that is known."""
        import tensorrt_llm
        import torch
        from tensorrt_llm.runtime.session import Session

        self._torch = torch
        self._config = config
        self._tokenizer = tokenizer
        self._stream = torch.cuda.Stream()
        torch.cuda.set_stream(self._stream)
        folder = config.folder
        with explained(folder, "loading"):
            with _mapped(folder / "encoder" / "rank0.engine") as plan:
                self._encoder = Session.from_serialized_engine(plan)
            engine = self._encoder.engine
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            self._encoder_names = set(names)
            self._mel_name = next((name for name in _MEL_INPUTS if name in names), "")
            if not self._mel_name:
                raise EngineError(
                    f"the encoder in {folder} has no input {' or '.join(_MEL_INPUTS)}, only "
                    f"{', '.join(names)}: it is no Whisper encoder that this program knows"
                )
            mapping = tensorrt_llm.Mapping(1, 0)
            with _mapped(folder / "decoder" / "rank0.engine") as plan:
                self._decoder = tensorrt_llm.runtime.GenerationSession(
                    self._model_config(), plan, mapping, stream=self._stream
                )

    def encode(self, mel: npt.NDArray[np.float32]) -> Any:
        """Run the encoder on frames, shape = (n_mels, n); returns features on the GPU."""
        from tensorrt_llm._utils import trt_dtype_to_torch
        from tensorrt_llm.runtime.session import TensorInfo

        torch, config = self._torch, self._config
        num_frames = mel.shape[1]
        with explained(config.folder, "encoding with"):
            features = torch.from_numpy(np.ascontiguousarray(mel)).to(
                device="cuda", dtype=getattr(torch, config.dtype)
            )
            # Packed engines take rows of frames, the others (1, n_mels, frames).
            features = features.T.contiguous() if config.is_packed else features.unsqueeze(0)
            length = num_frames if config.lengths_unit == "mel" else num_frames // 2
            inputs = {self._mel_name: features, "input_lengths": self._int32([length])}
            if "position_ids" in self._encoder_names:  # since about 0.15
                inputs["position_ids"] = self._int32([list(range(num_frames // 2))])
            engine = self._encoder.engine
            shapes = [
                TensorInfo(name, engine.get_tensor_dtype(name), tuple(value.shape))
                for name, value in inputs.items()
            ]
            outputs = {
                info.name: torch.empty(
                    tuple(info.shape), dtype=trt_dtype_to_torch(info.dtype), device="cuda"
                )
                for info in self._encoder.infer_shapes(shapes)
            }
            is_queued = self._encoder.run(
                inputs=inputs, outputs=outputs, stream=self._stream.cuda_stream
            )
            self._stream.synchronize()
        if not is_queued:
            raise EngineError(f"the encoder in {config.folder} could not run: see its log above")
        (output,) = outputs.values()
        return output

    def decode(
        self,
        features: Any,
        prompt: Sequence[int],
        max_new_tokens: int,
        should_stop: ShouldStop | None,
        stop_on_repetition: bool,
        on_token: OnToken | None = None,
    ) -> Decoding:
        """Decode greedily by the rules of asr/decoding.py."""
        # Logits are given out after the last token of a prompt only, and Whisper says after the
        # first one whether anybody spoke: so that one goes through the decoder alone before.
        first = _Steps(self._tokenizer, self._n_vocab, 1)
        self._generate(features, [self._tokenizer.sot], first)
        assert first.first_logits is not None, "the runtime never asked for logits"
        probabilities = np.exp(log_softmax(first.first_logits))
        no_speech_prob = float(probabilities[self._tokenizer.no_speech])
        steps = _Steps(
            self._tokenizer, self._n_vocab, max_new_tokens, should_stop, stop_on_repetition,
            on_token,
        )  # fmt: skip
        ids = self._generate(features, prompt, steps)
        if ids[: len(prompt)] != list(prompt):
            raise EngineError(
                f"wrong prompt: the decoder in {self._config.folder} answers with {ids[:4]} where "
                f"it was given {list(prompt)}: it is of another TensorRT-LLM than runs here"
            )
        return Decoding(
            tuple(steps.tokens), tuple(steps.logprobs), no_speech_prob,
            steps.end_reason or "max_tokens",
        )  # fmt: skip

    def close(self) -> None:
        self._decoder = self._encoder = None

    @property
    def _n_vocab(self) -> int:
        return self._config.vocab_size

    def _generate(self, features: Any, prompt: Sequence[int], steps: _Steps) -> list[int]:
        """Run the decoder; returns all ids, those of the prompt first."""
        from tensorrt_llm.runtime import SamplingConfig

        num_positions = features.shape[-2]
        sampling = SamplingConfig(
            end_id=self._tokenizer.eot, pad_id=self._tokenizer.eot, num_beams=1
        )
        with explained(self._config.folder, "decoding with"):
            self._decoder.setup(
                1, len(prompt), steps.max_new_tokens, beam_width=1,
                encoder_max_input_length=num_positions,
            )  # fmt: skip
            output = self._decoder.decode(
                self._int32([list(prompt)]),
                self._int32([len(prompt)]),
                sampling,
                encoder_output=features,
                encoder_input_lengths=self._int32([num_positions]),
                stopping_criteria=steps.is_done,
                logits_processor=steps.process_logits,
                cross_attention_mask=self._int32(np.ones((1, 1, num_positions), np.int32)),
            )
            self._stream.synchronize()
        ids: list[int] = output.cpu().numpy().reshape(-1).tolist()
        return ids

    def _int32(self, values: Any) -> Any:
        return self._torch.from_numpy(np.asarray(values, np.int32)).to(device="cuda")

    def _model_config(self) -> Any:
        from tensorrt_llm.runtime import ModelConfig

        config = self._config
        if config.version >= FIRST_WITH_KV_CACHE_TYPE:
            from tensorrt_llm.bindings import KVCacheType

            # The enum: the runtime takes its name, a string, for "not paged" without a word.
            kind = KVCacheType.PAGED if config.is_paged else KVCacheType.CONTINUOUS
            kv_cache: dict[str, Any] = {"kv_cache_type": kind}
        else:
            kv_cache = {"paged_kv_cache": config.is_paged}
        return ModelConfig(
            max_batch_size=config.max_batch_size,
            max_beam_width=config.max_beam_width,
            vocab_size=config.vocab_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            hidden_size=config.hidden_size,
            gpt_attention_plugin=bool(config.gpt_attention_plugin),
            remove_input_padding=config.is_packed,
            cross_attention=True,
            has_position_embedding=config.has_position_embedding,
            has_token_type_embedding=False,
            dtype=config.dtype,
            tokens_per_block=config.tokens_per_block,
            **kv_cache,
        )


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """An engine file as memory that is read as it is used, so that there is no second copy."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        yield plan
