"""Whisper in TensorRT-LLM's C++ runtime, 0.13 to 1.2: its executor, without `ModelRunnerCpp`.

That wrapper of it drops the limit in tokens for encoder-decoders in 0.13, so that the KV cache
takes a share of all free memory, and it can neither stop nor cancel a request. The executor can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from duplex_asr.asr.decoding import repeats_itself
from duplex_asr.asr.engine import DecodeEnd, Decoding, OnToken, ShouldStop
from duplex_asr.asr.engines.trtllm_config import TrtLlmConfig
from duplex_asr.asr.engines.trtllm_errors import explained
from duplex_asr.asr.tokenizer import Tokenizer
from duplex_asr.errors import EngineError

# The runtime computes no logits after the first token of a prompt unless the engine was built to
# gather them, which costs memory for each: whether nobody spoke is not known here.
NO_SPEECH_UNKNOWN = 0.0
_FIRST_WITH_CROSS_FRACTION = (0, 15)


class TrtLlmExecutor:
    """Both engines in one executor, one request at a time."""

    def __init__(self, config: TrtLlmConfig, tokenizer: Tokenizer) -> None:
        """Raises EngineError, with the meaning of each failure that is known."""
        import torch
        from tensorrt_llm.bindings import executor

        self._torch = torch
        self._executor_module = executor
        self._config = config
        self._tokenizer = tokenizer
        own, cross = config.kv_tokens()
        pool: dict[str, Any] = {"max_tokens": own + cross}
        if config.version >= _FIRST_WITH_CROSS_FRACTION:
            pool["cross_kv_cache_fraction"] = cross / (own + cross)
        with explained(config.folder, "loading"):
            self._executor = executor.Executor(
                config.folder / "encoder",
                config.folder / "decoder",
                executor.ModelType.ENCODER_DECODER,
                executor.ExecutorConfig(
                    max_beam_width=1, kv_cache_config=executor.KvCacheConfig(**pool)
                ),
            )

    def encode(self, mel: npt.NDArray[np.float32]) -> Any:
        """Frames on the GPU, shape = (n, n_mels): the executor encodes and decodes in one go."""
        dtype = getattr(self._torch, self._config.dtype)
        rows = self._torch.from_numpy(np.ascontiguousarray(mel.T))
        with explained(self._config.folder, "copying sound to the GPU for"):
            return rows.to(device="cuda", dtype=dtype).contiguous()

    def decode(
        self,
        features: Any,
        prompt: Sequence[int],
        max_new_tokens: int,
        should_stop: ShouldStop | None,
        stop_on_repetition: bool,
        on_token: OnToken | None = None,
    ) -> Decoding:
        """Decode greedily. Other than by our rules, the first token may be a space or the end."""
        tokens: list[int] = []
        logprobs: list[float] = []
        end_reason: DecodeEnd | None = None
        with explained(self._config.folder, "decoding with"):
            request_id = self._executor.enqueue_request(
                self._request(features, prompt, max_new_tokens)
            )
            is_final = False
            while not is_final:
                for response in self._executor.await_responses(request_id):
                    if response.has_error():
                        raise RuntimeError(response.error_msg)
                    result = response.result
                    is_final = is_final or result.is_final
                    if end_reason is None:
                        tokens += result.output_token_ids[0]
                        for token in result.output_token_ids[0]:
                            if on_token is not None and token != self._tokenizer.eot:
                                on_token(token)
                        _add_logprobs(logprobs, result.log_probs, len(tokens))
                if end_reason is None:
                    end_reason = self._reason_to_end(tokens, should_stop, stop_on_repetition)
                    if end_reason in ("stopped", "repetition") and not is_final:
                        self._executor.cancel_request(request_id)
        if self._tokenizer.eot in tokens:
            tokens = tokens[: tokens.index(self._tokenizer.eot)]
            end_reason = "end_token"
        elif end_reason is None:  # the runtime drops the end token from what it gives
            end_reason = "max_tokens" if len(tokens) >= max_new_tokens else "end_token"
        return Decoding(
            tuple(tokens), tuple(logprobs[: len(tokens) + 1]), NO_SPEECH_UNKNOWN, end_reason
        )

    def close(self) -> None:
        with explained(self._config.folder, "closing"):
            self._executor.shutdown()

    def _request(self, features: Any, prompt: Sequence[int], max_new_tokens: int) -> Any:
        executor = self._executor_module
        if max_new_tokens < 1:
            raise EngineError("no room for a token after the prompt: it fills the context")
        return executor.Request(
            list(prompt),
            max_new_tokens,  # by position: its name differs between versions
            streaming=True,
            sampling_config=executor.SamplingConfig(beam_width=1, top_k=1),
            output_config=executor.OutputConfig(
                return_log_probs=True, exclude_input_from_output=True
            ),
            end_id=self._tokenizer.eot,
            pad_id=self._tokenizer.eot,
            bad_words=[[token] for token in self._tokenizer.suppressed_tokens],
            encoder_input_features=features,
            encoder_output_length=features.shape[0] // 2,
        )

    def _reason_to_end(
        self, tokens: list[int], should_stop: ShouldStop | None, stop_on_repetition: bool
    ) -> DecodeEnd | None:
        if stop_on_repetition and repeats_itself(tokens):
            return "repetition"
        if should_stop is not None and should_stop():
            return "stopped"
        return None


def _add_logprobs(
    logprobs: list[float], given: Sequence[Sequence[float]] | None, num_tokens: int
) -> None:
    """Versions differ in whether a streamed response repeats the earlier ones."""
    if not given:
        return
    if len(given[0]) >= num_tokens:
        logprobs[:] = given[0]
    else:
        logprobs += given[0]
