"""TensorRT-LLM that is not there: both of its runtimes, computing with the ONNX engine of a model.

What the encoder gives is looked up again when it comes back to the decoder, so that a decoder that
was given anything else is refused. `fail` lets one call raise what the library would.
"""

from __future__ import annotations

import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from duplex_asr.asr.engines.onnx import OnnxEngine
from tests.tensorrt_double.gpu import GpuDouble
from tests.tensorrt_double.strict import RefusedCall, make_module, read_signatures, wrap
from tests.tensorrt_double.tensorrt import make_tensorrt
from tests.tensorrt_double.torch import Tensor, check_on_gpu, make_torch


@dataclass
class TrtLlmDouble:
    """One model in one version.

    signatures: which data file describes that version.
    unit: what the encoder wants to be told, "output" or "mel".
    fail: name of a step -> the error that it raises.
    """

    model: OnnxEngine
    version: str = "0.12.0"
    signatures: str = "tensorrt_llm-0.12"
    unit: str = "output"
    is_paged: bool = False
    is_packed: bool = False
    mel_name: str = "input_features"
    has_position_ids: bool = False
    fail: dict[str, Exception] = field(default_factory=dict)
    prompt_answered: list[int] | None = None  # ids that are answered in place of the prompt
    requests: list[Any] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    pools: list[Any] = field(default_factory=list)
    decoded: list[list[int]] = field(default_factory=list)  # prompts
    num_closed: int = 0
    _encoded: dict[bytes, Any] = field(default_factory=dict)

    def step(self, name: str) -> None:
        if name in self.fail:
            raise self.fail[name]

    def check_plan(self, plan: Any) -> None:
        content = json.loads(bytes(plan))
        if content["version"] != self.version:
            raise RuntimeError(
                "The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version of {self.version}"
            )

    def encode(self, frames: Any) -> Any:
        """(n_mels, 3000) float16 -> features (1500, width) float16, remembered."""
        mel = frames.astype(np.float32)
        features = self.model.audio_features(mel).astype(np.float16)
        self._encoded[features.tobytes()] = self.model.encode(mel)
        return features

    def logits(self, features: Any, ids: list[int]) -> Any:
        if features.tobytes() not in self._encoded:
            raise RefusedCall("these features did not come from the encoder")
        encoded = self._encoded[features.tobytes()]
        padded = np.zeros(-(-self.model.dimensions.n_vocab // 8) * 8, np.float32)
        padded[: self.model.dimensions.n_vocab] = self.model.logits(encoded, ids)[-1]
        return padded


def make_tensorrt_llm(double: TrtLlmDouble) -> dict[str, types.ModuleType]:
    """All modules of `tensorrt_llm` that the version has, by full name."""
    behaviours = _session_behaviours(double) | _executor_behaviours(double)
    data = read_signatures(double.signatures)["modules"]
    modules: dict[str, types.ModuleType] = {}
    for name in sorted(data):
        modules[name] = make_module({"module": name, **data[name]}, behaviours)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
    modules["tensorrt_llm"].__version__ = double.version
    behaviours["modules"].update(modules)
    return modules


def _session_behaviours(double: TrtLlmDouble) -> dict[str, Any]:  # noqa: C901 - all its closures
    modules: dict[str, Any] = {}
    trt = make_tensorrt(GpuDouble())
    dims = double.model.dimensions

    class Holder:
        def __init__(self, *values: Any) -> None:
            self.values = values

    class TensorInfo:
        def __init__(self, name: str, dtype: Any, shape: Any) -> None:
            self.name, self.dtype, self.shape = name, dtype, shape

    class Engine:
        extra = ("position_ids",) if double.has_position_ids else ()
        tensors = (double.mel_name, "input_lengths", *extra, "encoder_output")
        num_io_tensors = len(tensors)

        def get_tensor_name(self, index: int) -> str:
            return self.tensors[index]

        def get_tensor_dtype(self, name: str) -> Any:
            kinds = trt.DataType
            return kinds.INT32 if name in ("input_lengths", "position_ids") else kinds.HALF

    class Session:
        engine = wrap(trt, "ICudaEngine", Engine())

        @staticmethod
        def from_serialized_engine(plan: Any) -> Any:
            double.step("encoder")
            double.check_plan(plan)
            return wrap(modules["tensorrt_llm.runtime.session"], "Session", Session())

        def infer_shapes(self, inputs: list[Any], context: Any) -> list[Any]:
            frames = (3000, dims.n_mels) if double.is_packed else (1, dims.n_mels, 3000)
            expected = {double.mel_name: frames, "input_lengths": (1,)}
            if double.has_position_ids:
                expected["position_ids"] = (1, 1500)
            found = {each.name: each.shape for each in inputs}
            if found.keys() != expected.keys():
                raise RefusedCall(f"the encoder has {sorted(expected)}, not {sorted(found)}")
            if found != expected:
                raise ValueError(f"Static dimension mismatch: {found}")
            self.is_shaped = True
            info = modules["tensorrt_llm.runtime.session"].TensorInfo
            shape = (1500, dims.n_audio_state)
            shape = shape if double.is_packed else (1, *shape)
            return [info("encoder_output", trt.DataType.HALF, shape)]

        def run(self, inputs: Any, outputs: Any, stream: int, context: Any) -> bool:
            double.step("run")
            if not self.is_shaped or stream != 0x2000:
                raise RefusedCall("run before infer_shapes, or not on the stream given")
            frames = (3000, dims.n_mels) if double.is_packed else (1, dims.n_mels, 3000)
            mel = check_on_gpu(inputs[double.mel_name], np.float16, frames, "mel")
            (length,) = check_on_gpu(inputs["input_lengths"], np.int32, (1,), "input_lengths")
            if length != (3000 if double.unit == "mel" else 1500):
                raise RefusedCall(f"length {length} is not in the unit {double.unit}")
            if double.has_position_ids:
                places = check_on_gpu(inputs["position_ids"], np.int32, (1, 1500), "position_ids")
                if places[0].tolist() != list(range(1500)):
                    raise RefusedCall("position_ids do not count up")
            features = double.encode(mel.T if double.is_packed else mel[0])
            target = outputs["encoder_output"].values
            target[...] = features.reshape(target.shape)
            return True

    class ModelConfig:
        def __init__(self, *values: Any) -> None:
            parameters = read_signatures(double.signatures)["modules"]["tensorrt_llm.runtime"]
            names = [each[0] for each in parameters["classes"]["ModelConfig"]["constructor"]]
            given = dict(zip(names, values, strict=True))
            kind = given.get("kv_cache_type")
            if "kv_cache_type" in given:
                kinds = modules["tensorrt_llm.bindings"].KVCacheType
                if not isinstance(kind, kinds):
                    raise RefusedCall(f"kv_cache_type is {kind!r}: the runtime takes that for not "
                                      "paged without a word")  # fmt: skip
                self.is_paged = kind is kinds.PAGED
            else:
                self.is_paged = bool(given["paged_kv_cache"])
            if given["dtype"] != "float16" or not given["cross_attention"]:
                raise RefusedCall("a Whisper decoder has cross attention, and its KV is float16")

    class GenerationSession:
        def __init__(self, config: Any, plan: Any, mapping: Any, *rest: Any) -> None:
            double.step("decoder")
            double.check_plan(plan)
            if rest[-1] is None:
                raise RefusedCall("without a stream the runtime makes one of its own")
            if config._acts.is_paged != double.is_paged:
                raise RuntimeError("Tensor names in engine are not the same as expected: "
                                   "kv_cache_block_offsets")  # fmt: skip
            self.limits: tuple[int, int, int] | None = None

        def setup(self, batch: int, context: int, new: int, beam: int, *rest: Any) -> None:
            encoder_length = rest[2]
            if (batch, beam) != (1, 1) or context + new > dims.n_text_ctx:
                raise RefusedCall(f"the engine has no room for {context} + {new} tokens")
            self.limits = (context, new, encoder_length)

        def decode(self, ids: Any, lengths: Any, sampling: Any, *rest: Any) -> Any:
            double.step("decode")
            features, encoder_lengths, is_done, process, mask = rest[-5:]
            if self.limits is None:
                raise RefusedCall("decode before setup")
            context, most, positions = self.limits
            check_on_gpu(ids, np.int32, (1, context), "input_ids")
            check_on_gpu(lengths, np.int32, (1,), "context_lengths")
            shape = (positions, dims.n_audio_state)
            shape = shape if double.is_packed else (1, *shape)
            found = check_on_gpu(features, np.float16, shape, "encoder_output")
            check_on_gpu(encoder_lengths, np.int32, (1,), "encoder_input_lengths")
            check_on_gpu(mask, np.int32, (1, 1, positions), "cross_attention_mask")
            end_id = sampling._acts.values[0]
            tokens = ids.values[0].tolist()
            double.decoded.append(list(tokens))
            for step in range(most):
                logits = Tensor(double.logits(found, tokens)[None].astype(np.float16), "cuda")
                logits = process(step, Tensor(np.array([tokens]), "cuda"), logits)
                tokens.append(int(logits.values.argmax()))
                is_stopped = is_done(step, Tensor(np.array([tokens]), "cuda"), logits)
                if tokens[-1] == end_id or is_stopped:
                    break
            if double.prompt_answered is not None:
                tokens[:context] = double.prompt_answered
            return Tensor(np.array([[tokens]], np.int32), "cuda")

    return {
        "Mapping": Holder,
        "SamplingConfig": Holder,
        "TensorInfo": TensorInfo,
        "Session": Session,
        "ModelConfig": ModelConfig,
        "GenerationSession": GenerationSession,
        "trt_dtype_to_torch": lambda dtype: {trt.DataType.HALF: np.float16}[dtype],
        "modules": modules,
    }


def _executor_behaviours(double: TrtLlmDouble) -> dict[str, Any]:  # noqa: C901 - as above
    dims = double.model.dimensions

    class Values:
        def __init__(self, *values: Any) -> None:
            self.values = values

    class KvCacheConfig(Values):
        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            double.pools.append(values)
            if values[1] is None:
                raise RefusedCall("without max_tokens the pool is a share of all free memory")

    @dataclass
    class Result:
        output_token_ids: list[list[int]]
        is_final: bool
        log_probs: list[list[float]] | None

    class Response:
        def __init__(self, result: Result, error: str = "") -> None:
            self.result, self.error_msg = result, error

        def has_error(self) -> bool:
            return bool(self.error_msg)

    class Executor:
        def __init__(self, encoder: Path, decoder: Path, kind: Any, config: Any) -> None:
            double.step("executor")
            if kind.name != "ENCODER_DECODER" or (encoder.name, decoder.name) != (
                "encoder", "decoder",
            ):  # fmt: skip
                raise RefusedCall("Whisper is an encoder-decoder of two folders")
            double.check_plan((decoder / "rank0.engine").read_bytes())
            self.is_open = True

        def enqueue_request(self, request: Any) -> int:
            names = [each[0] for each in self.request_data()]
            given = dict(zip(names, request._acts.values, strict=True))
            double.requests.append(given)
            mel = check_on_gpu(
                given["encoder_input_features"], np.float16, (3000, dims.n_mels), "features"
            )
            if given["encoder_output_length"] != 1500:
                raise RefusedCall("the executor is told encoder positions")
            self.features = double.encode(np.ascontiguousarray(mel.T))
            self.tokens = list(given["input_token_ids"])
            self.most = given.get("max_new_tokens") or given["max_tokens"]
            self.banned = [word[0] for word in given["bad_words"]]
            self.end_id = given["end_id"]
            self.num_given = 0
            return len(double.requests)

        def request_data(self) -> Any:
            data = read_signatures(double.signatures)["modules"]["tensorrt_llm.bindings.executor"]
            return data["classes"]["Request"]["constructor"]

        def await_responses(self, request_id: int, timeout: Any) -> list[Any]:
            if not self.is_open or request_id != len(double.requests):
                raise RefusedCall(f"no request {request_id}")
            if "response" in double.fail:
                return [self.response([], True, str(double.fail["response"]))]
            if request_id in double.cancelled:
                return [self.response([], True)]
            scores = double.logits(self.features, self.tokens)[: dims.n_vocab]
            scores[self.banned] = -np.inf
            token = int(scores.argmax())
            if token == self.end_id:
                return [self.response([], True)]
            self.tokens.append(token)
            self.num_given += 1
            return [self.response([token], self.num_given >= self.most)]

        def response(self, tokens: list[int], is_final: bool, error: str = "") -> Any:
            result = wrap(
                executor_module(), "Result", Result([tokens], is_final, [[-0.5] * len(tokens)])
            )
            return wrap(executor_module(), "Response", Response(result, error))

        def cancel_request(self, request_id: int) -> None:
            double.cancelled.append(request_id)

        def shutdown(self) -> None:
            self.is_open = False
            double.num_closed += 1

    def executor_module() -> Any:
        return double_modules["tensorrt_llm.bindings.executor"]

    names = ("ExecutorConfig", "OutputConfig", "Request")
    behaviours: dict[str, Any] = {name: Values for name in names}
    behaviours |= {"KvCacheConfig": KvCacheConfig, "Executor": Executor}
    double_modules = double.__dict__.setdefault("modules", {})
    return behaviours


def install_trtllm(monkeypatch: Any, double: TrtLlmDouble, sm: tuple[int, int] = (8, 7)) -> None:
    """Let the code under test import the doubles."""
    import sys

    modules = make_tensorrt_llm(double)
    double.__dict__.setdefault("modules", {}).update(modules)
    for name, module in {**modules, **make_torch(sm)}.items():
        monkeypatch.setitem(sys.modules, name, module)
