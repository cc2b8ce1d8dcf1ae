"""One request for the native engine, and the memory that its answer goes to."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int32
from typing import Any, get_args

from duplex_asr.asr.engine import DecodeEnd, Decoding, OnToken, ShouldStop
from duplex_asr.asr.engines import cuda_library as dw

_END_REASONS: tuple[DecodeEnd, ...] = get_args(DecodeEnd)  # in the order of dw_end_reason


class CudaAnswer:
    """Holds what C points to, for as long as it runs.

    sot: the start-of-transcript token, which is in the prompt.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sot: int,
        max_new_tokens: int,
        draft: Sequence[int],
        should_stop: ShouldStop | None,
        stop_on_repetition: bool,
        on_token: OnToken | None = None,
    ) -> None:
        self._tokens = (c_int32 * max_new_tokens)()
        self._logprobs = (c_float * (max_new_tokens + 1))()
        self._should_stop = should_stop
        self._on_token = on_token
        self._num_told = 0
        self._error: BaseException | None = None
        self.request = dw.Request(
            prompt=dw.int32_array(prompt),
            num_prompt=len(prompt),
            draft=dw.int32_array(draft),
            num_draft=len(draft),
            max_new_tokens=max_new_tokens,
            sot_index=prompt.index(sot),
            stop_on_repetition=stop_on_repetition,
        )
        if should_stop is not None or on_token is not None:
            self.request.should_stop = dw.ShouldStopFunction(self._ask)
        self.result = dw.Result(tokens=self._tokens, logprobs=self._logprobs)

    def _ask(self, _user: Any) -> int:
        """What C calls; an exception cannot cross it, so it is kept and ends the decoding."""
        try:
            self._tell_tokens()
            return int(self._should_stop is not None and self._should_stop())
        except BaseException as error:  # noqa: BLE001 - raised again by `decoding`
            self._error = error
            return 1

    def _tell_tokens(self) -> None:
        """Those that have come since the last time: C counts them in the result as it goes."""
        if self._on_token is not None:
            for token in self._tokens[self._num_told : self.result.num_tokens]:
                self._num_told += 1
                self._on_token(token)

    def decoding(self) -> Decoding:
        if self._error is not None:
            raise self._error
        self._tell_tokens()
        result = self.result
        return Decoding(
            tokens=tuple(self._tokens[: result.num_tokens]),
            token_logprobs=tuple(self._logprobs[: result.num_logprobs]),
            no_speech_prob=result.no_speech_prob,
            end_reason=_END_REASONS[result.end_reason],
            num_drafted=result.num_drafted,
        )
