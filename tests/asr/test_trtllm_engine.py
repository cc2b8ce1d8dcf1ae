"""The TensorRT-LLM engine on doubles that compute its model; no TensorRT-LLM has run here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from duplex_asr.asr.engines import DEMO_ENGINE, load_engine
from duplex_asr.asr.engines.onnx import OnnxEngine
from duplex_asr.asr.engines.trtllm import TrtLlmEngine, frames_of_sound
from duplex_asr.asr.engines.trtllm_config import parse_version, read_config
from duplex_asr.asr.engines.trtllm_executor import TrtLlmExecutor
from duplex_asr.asr.engines.trtllm_session import TrtLlmSession
from duplex_asr.asr.manifest import TOKENIZER_NAME, describe_files, read_manifest
from duplex_asr.asr.mel import log_mel_spectrogram
from duplex_asr.errors import EngineError, GpuLostError
from tests.tensorrt_double.strict import RefusedCall
from tests.tensorrt_double.torch import Tensor
from tests.tensorrt_double.trtllm import TrtLlmDouble, install_trtllm

NOISE = np.random.default_rng(3).standard_normal(40_000).astype(np.float32) * 0.1
MEL = log_mel_spectrogram(NOISE).astype(np.float16).astype(np.float32)

V12 = {"version": "0.12.0", "signatures": "tensorrt_llm-0.12", "unit": "output"}
V13 = {"version": "0.13.0", "signatures": "tensorrt_llm-0.13", "unit": "mel"}
V1 = {"version": "1.2.1", "signatures": "tensorrt_llm-1.2", "unit": "mel"}
PACKED = {"is_paged": True, "is_packed": True}


def write_folder(folder: Path, onnx_folder: Path, double: TrtLlmDouble, **built_with: str) -> Path:
    """What the build scripts leave: engines, their config.json, ranks and a manifest."""
    dims = double.model.dimensions
    for part in ("encoder", "decoder"):
        (folder / part).mkdir(parents=True)
        (folder / part / "rank0.engine").write_text(json.dumps({"version": double.version}))
    plugins = {"gpt_attention_plugin": "float16", "remove_input_padding": double.is_packed,
               "paged_kv_cache": double.is_paged, "tokens_per_block": 64}  # fmt: skip
    build: dict[str, Any] = {
        "max_batch_size": 1, "max_beam_width": 1, "max_seq_len": dims.n_text_ctx,
        "max_input_len": 8, "max_encoder_input_len": 1500, "plugin_config": plugins,
    }  # fmt: skip
    if double.version != "0.12.0":
        build["kv_cache_type"] = "PAGED" if double.is_paged else "CONTINUOUS"
    model = {"dtype": "float16", "num_hidden_layers": dims.n_text_layer, "hidden_size": 384,
             "num_attention_heads": dims.n_text_head, "vocab_size": dims.n_vocab,
             "has_position_embedding": True}  # fmt: skip
    config = {"version": double.version, "pretrained_config": model, "build_config": build}
    for part in ("encoder", "decoder"):
        (folder / part / "config.json").write_text(json.dumps(config))
    shutil.copy(onnx_folder / TOKENIZER_NAME, folder)
    names = [f"{part}/{name}" for part in ("encoder", "decoder")
             for name in ("config.json", "rank0.engine")]  # fmt: skip
    manifest = dataclasses.replace(
        read_manifest(onnx_folder), backend="trtllm", precision="fp16",
        files=describe_files(folder, [*names, TOKENIZER_NAME]),
        built_with={"tensorrt_llm": double.version, "sm": "87", **built_with},
    )  # fmt: skip
    manifest.write(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change build_config of the decoder, and seal again."""
    path = folder / "decoder" / "config.json"
    content = json.loads(path.read_text())
    content["build_config"] |= changes
    path.write_text(json.dumps(content))
    manifest = read_manifest(folder)
    dataclasses.replace(manifest, files=describe_files(folder, list(manifest.files))).write(folder)


@pytest.fixture
def make(
    tmp_path: Path,
    small_engine: OnnxEngine,
    small_engine_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Double and engine folder of a version; the engine itself is loaded by the test."""

    def make(built_with: dict[str, str] | None = None, **settings: Any) -> Any:
        double = TrtLlmDouble(small_engine, **settings)
        install_trtllm(monkeypatch, double)
        folder = write_folder(tmp_path / "engine", small_engine_dir, double, **(built_with or {}))
        return double, folder

    return make


def load(folder: Path) -> TrtLlmEngine:
    engine = load_engine(folder)
    assert isinstance(engine, TrtLlmEngine)
    return engine


@pytest.mark.parametrize(
    ("settings", "runtime"),
    [
        ({**V12}, TrtLlmSession),
        ({**V12, "is_paged": True}, TrtLlmSession),
        ({**V12, "is_packed": True}, TrtLlmSession),
        ({**V12, "mel_name": "x"}, TrtLlmSession),
        ({**V13}, TrtLlmSession),
        ({**V13, "is_paged": True}, TrtLlmSession),
        ({**V13, **PACKED}, TrtLlmExecutor),
        ({**V1, "has_position_ids": True}, TrtLlmSession),
        ({**V1, **PACKED}, TrtLlmExecutor),
    ],
)
def test_it_decodes_what_the_onnx_engine_decodes(
    make: Any, small_engine: OnnxEngine, settings: dict[str, Any], runtime: type
) -> None:
    _, folder = make(**settings)
    engine = load(folder)
    assert isinstance(engine._runtime, runtime)
    prompt = engine.tokenizer.prompt()
    expected = small_engine.decode(small_engine.encode(MEL), prompt, 20, stop_on_repetition=False)
    encoded = engine.encode(MEL)
    told: list[int] = []
    found = engine.decode(
        encoded, prompt, 20, draft=[99], on_token=told.append, stop_on_repetition=False
    )
    assert len(found.tokens) > 5 and found.tokens == expected.tokens
    assert tuple(told) == found.tokens
    assert found.end_reason == expected.end_reason and found.num_drafted == 0
    if runtime is TrtLlmSession:
        np.testing.assert_allclose(found.token_logprobs, expected.token_logprobs, atol=0.01)
        np.testing.assert_allclose(found.no_speech_prob, expected.no_speech_prob, atol=0.01)
    else:
        assert found.no_speech_prob == 0.0, "the executor does not tell"
        assert set(found.token_logprobs) == {-0.5}
    encoded.release()
    with pytest.raises(AssertionError, match="released"):
        engine.decode(encoded, prompt, 3)
    engine.close()


@pytest.mark.parametrize("settings", [V12, {**V13, **PACKED}])
def test_the_demo_model_says_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Real weights and a real recording, through each of the two runtimes."""
    plain = load_engine(DEMO_ENGINE, threads=1)
    assert isinstance(plain, OnnxEngine)
    double = TrtLlmDouble(plain, **settings)
    install_trtllm(monkeypatch, double)
    engine = load(write_folder(tmp_path / "engine", DEMO_ENGINE, double))
    sound, _ = soundfile.read(DEMO_ENGINE / "demo.flac", dtype="float32")
    prompt = engine.tokenizer.prompt()
    texts = []
    for start in range(0, len(sound) - 32_000, 32_000):
        mel = log_mel_spectrogram(sound[start : start + 32_000])
        mel = mel.astype(np.float16).astype(np.float32)
        expected = plain.decode(plain.encode(mel), prompt, 40)
        encoded = engine.encode(mel)
        found = engine.decode(encoded, prompt, 40)
        encoded.release()
        # The executor may end at once, which our rule for the first token does not let silence do.
        ends_at_once = "is_paged" in settings and not found.tokens
        assert ends_at_once or found.tokens == expected.tokens
        texts.append(engine.tokenizer.decode(found.tokens).strip())
    assert len([text for text in texts if text]) > 2, texts


def test_the_language_is_not_asked_of_it(make: Any) -> None:
    _, folder = make(**V12)
    engine = load(folder)
    with pytest.raises(EngineError, match="cannot be asked for the language: name it"):
        engine.detect_language(engine.encode(MEL))


def test_the_prompt_of_english_models_goes_in_as_it_is(make: Any) -> None:
    double, folder = make(**V12)
    engine = load(folder)
    engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 3)
    sot = engine.tokenizer.sot
    assert double.decoded == [[sot], [sot, engine.tokenizer.no_timestamps]]


@pytest.mark.parametrize("settings", [V12, {**V13, **PACKED}])
def test_decoding_stops_between_two_tokens(make: Any, settings: dict[str, Any]) -> None:
    double, folder = make(**settings)
    engine = load(folder)
    answers = iter([False, False, False, True])
    decoding = engine.decode(
        engine.encode(MEL), engine.tokenizer.prompt(), 30, should_stop=lambda: next(answers)
    )
    assert len(decoding.tokens) == 3 and decoding.end_reason == "stopped"
    assert double.cancelled == ([1] if "is_paged" in settings else [])


@pytest.mark.parametrize("settings", [V12, {**V13, **PACKED}])
def test_the_token_budget_is_kept(make: Any, settings: dict[str, Any]) -> None:
    _, folder = make(**settings)
    engine = load(folder)
    decoding = engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 4)
    assert len(decoding.tokens) == 4 and decoding.end_reason == "max_tokens"


@pytest.mark.parametrize(("settings", "fraction"), [(V13, None), (V1, 1536 / 1600)])
def test_the_kv_pool_is_sized_in_tokens(
    make: Any, settings: dict[str, Any], fraction: float | None
) -> None:
    double, folder = make(**settings, **PACKED)
    load(folder)
    (pool,) = double.pools
    assert pool[1] == 1536 + 64 and pool[4] is None, "never a share of free memory"
    if fraction is not None:
        assert pool[5] == pytest.approx(fraction)


def test_the_executor_never_says_what_whisper_must_not_say(make: Any) -> None:
    double, folder = make(**V13, **PACKED)
    engine = load(folder)
    engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 2)
    words = [word for (word,) in double.requests[0]["bad_words"]]
    assert words == list(engine.tokenizer.suppressed_tokens)
    engine.close()
    assert double.num_closed == 1


FAILURES = [
    ("decoder", RuntimeError("cudaHostAlloc failed"), "512 MiB piece of memory to page-lock"),
    ("decode", RuntimeError("failed to allocate pinned memory"), "first after boot"),
    ("decoder", RuntimeError("NvMapMemAllocInternalTagged: 1075072515 error 12"), "36.4.7 update"),
    ("encoder", MemoryError("out of memory"), "end other programs"),
    ("decoder", RuntimeError("Could not find plugin GPTAttention"), "plugins .* are missing"),
    ("decoder", RuntimeError("static dimension mismatch"), "other lengths than 3000 frames"),
    ("run", RuntimeError("something new"), "encoding with .* something new"),
    ("decode", AssertionError(), r"decoding with .* failed \(AssertionError\)"),
]


@pytest.mark.parametrize(("step", "error", "message"), FAILURES)
def test_each_known_failure_is_one_clear_sentence(
    make: Any, step: str, error: Exception, message: str
) -> None:
    double, folder = make(**V12)
    double.fail[step] = error
    with pytest.raises(EngineError, match=message) as caught:
        engine = load(folder)
        engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [V12, {**V13, **PACKED}])
def test_memory_that_is_missing_for_the_sound_is_named(
    make: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    _, folder = make(**settings)
    engine = load(folder)

    def fail(self: Tensor, **_: Any) -> Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(Tensor, "to", fail)
    with pytest.raises(EngineError, match="Tried to allocate .* end other programs"):
        engine.encode(MEL)


def test_a_failed_request_of_the_executor_is_named(make: Any) -> None:
    double, folder = make(**V13, **PACKED)
    engine = load(folder)
    double.fail["response"] = RuntimeError("Must set crossKvCacheFraction for encoder-decoders")
    with pytest.raises(EngineError, match=r"0\.14 cannot run encoder-decoders"):
        engine.decode(engine.encode(MEL), engine.tokenizer.prompt(), 3)


def test_a_poisoned_gpu_is_told_apart(make: Any) -> None:
    double, folder = make(**V12)
    engine = load(folder)
    encoded = engine.encode(MEL)
    double.fail["decode"] = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(GpuLostError, match="start it again"):
        engine.decode(encoded, engine.tokenizer.prompt(), 3)


def test_another_version_is_refused_before_anything_is_loaded(make: Any) -> None:
    double, folder = make(**V12)
    sys.modules["tensorrt_llm"].__version__ = "0.13.0"
    double.fail["encoder"] = RefusedCall("loaded")  # type: ignore[assignment]
    with pytest.raises(EngineError, match=r"built by TensorRT-LLM 0\.12\.0 and here runs 0\.13\.0"):
        load(folder)
    sys.modules["tensorrt_llm"].__version__ = "1.3.0rc2"
    with pytest.raises(EngineError, match="runs no engines any more"):
        load(folder)


def test_an_engine_file_of_another_version_is_refused(make: Any) -> None:
    _, folder = make(**V12)
    (folder / "decoder" / "rank0.engine").write_text(json.dumps({"version": "0.11.0"}))
    change_config(folder)
    with pytest.raises(EngineError, match="built by another version or for another GPU"):
        load(folder)


def test_another_gpu_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    double, folder = make(**V12)
    install_trtllm(monkeypatch, double, sm=(9, 0))
    with pytest.raises(EngineError, match="architecture sm_87 .* sm_90"):
        load(folder)


def test_a_kv_cache_of_another_layout_is_named(make: Any) -> None:
    double, folder = make(**V12)
    double.is_paged = True  # the engine is, its config.json says it is not
    with pytest.raises(EngineError, match="KV cache that its config.json names .*PAGED_KV=disable"):
        load(folder)


def test_the_name_of_a_kv_cache_type_is_refused_where_the_type_is_wanted(make: Any) -> None:
    make(**V13)
    from tensorrt_llm.runtime import ModelConfig

    with pytest.raises(RefusedCall, match="takes that for not paged without a word"):
        ModelConfig(1, 1, 8, 1, 1, 1, 8, True, False, kv_cache_type="PAGED", dtype="float16",
                    cross_attention=True)  # fmt: skip


@pytest.mark.parametrize("settings", [V12, V13])
def test_the_encoder_is_told_lengths_in_the_unit_that_the_manifest_names(
    make: Any, settings: dict[str, Any]
) -> None:
    other = "mel" if settings["unit"] == "output" else "output"
    double, folder = make(built_with={"encoder_input_lengths_unit": other}, **settings)
    engine = load(folder)
    with pytest.raises(RefusedCall, match=f"not in the unit {settings['unit']}"):
        engine.encode(MEL)
    double.unit = other
    engine.encode(MEL)


def test_750_encoder_positions_are_explained(make: Any) -> None:
    _, folder = make(**V12)
    change_config(folder, max_encoder_input_len=750)
    with pytest.raises(EngineError, match="wrong length unit: .* 750, and 30 s are 1500 encoder"):
        load(folder)


def test_trimming_needs_an_encoder_that_takes_short_input(make: Any) -> None:
    _, folder = make(built_with={"padding": "trim"}, **V12)
    with pytest.raises(EngineError, match="static dimension mismatch: .* 0.12.0 take exactly 3000"):
        load(folder)


def test_trimmed_sound_ends_where_the_padding_begins(make: Any) -> None:
    _, folder = make(built_with={"padding": "trim"}, **V1, **PACKED)
    engine = load(folder)
    features = engine.encode(MEL).features
    assert features.shape == (frames_of_sound(MEL), 80) and 250 <= features.shape[0] <= 256
    assert frames_of_sound(np.zeros((80, 3000), np.float32)) == 2
    assert frames_of_sound(np.arange(6000, dtype=np.float32).reshape(2, 3000)) == 3000


@pytest.mark.parametrize(
    ("built_with", "message"),
    [
        ({"padding": "longest"}, "padding 'longest': it is max or trim"),
        ({"encoder_input_lengths_unit": "s"}, "'s': it is output or mel"),
    ],
)
def test_unknown_switches_are_named(make: Any, built_with: dict[str, str], message: str) -> None:
    _, folder = make(built_with=built_with, **V12)
    with pytest.raises(EngineError, match=message):
        load(folder)


def test_a_wrong_prompt_is_named(make: Any) -> None:
    double, folder = make(**V12)
    engine = load(folder)
    encoded = engine.encode(MEL)
    with pytest.raises(EngineError, match="wrong prompt: 9 tokens, and the decoder .* for 8"):
        engine.decode(encoded, [engine.tokenizer.sot] * 9, 3)
    with pytest.raises(EngineError, match="wrong prompt: it has no <.startoftranscript.>"):
        engine.decode(encoded, [5], 3)
    with pytest.raises(EngineError, match="wrong prompt: .* need <.notimestamps.>"):
        engine.decode(encoded, [engine.tokenizer.sot], 3)
    double.prompt_answered = [7]
    with pytest.raises(EngineError, match=r"wrong prompt: the decoder .* answers with \[7"):
        engine.decode(encoded, engine.tokenizer.prompt(), 3)


@pytest.mark.parametrize("missing", ["tensorrt_llm", "torch"])
def test_a_missing_package_is_named(
    make: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    _, folder = make(**V12)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineError, match=f"TensorRT-LLM cannot be imported .*{missing}"):
        load(folder)


def test_plugins_that_cannot_be_loaded_at_import_are_named(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = make(**V12)

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "tensorrt_llm":
                raise OSError("libnvinfer_plugin_tensorrt_llm.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "tensorrt_llm")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(EngineError, match="importing TensorRT-LLM for .* plugins .* are missing"):
        load(folder)


def test_a_damaged_engine_file_names_the_script_that_builds_it(make: Any) -> None:
    _, folder = make(**V12)
    (folder / "decoder" / "rank0.engine").write_text("cut off")
    with pytest.raises(EngineError, match=r"rank0.engine is damaged.*build_scripts/build_base_en"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plugin_config": {}}, "is incomplete .*gpt_attention|is incomplete .*paged"),
        ({"max_beam_width": 4, "plugin_config": None}, "is incomplete"),
    ],
)
def test_a_config_that_lacks_something_is_named(
    make: Any, change: dict[str, Any], message: str
) -> None:
    _, folder = make(**V12)
    change_config(folder, **change)
    with pytest.raises(EngineError, match=message):
        load(folder)


def test_beams_and_pages_do_not_go_together(make: Any) -> None:
    _, folder = make(**V12, is_paged=True)
    change_config(folder, max_beam_width=4)
    with pytest.raises(EngineError, match="paged KV cache and beam width 4"):
        load(folder)


def test_the_cache_type_of_later_versions_is_read_from_the_config(make: Any) -> None:
    _, folder = make(**V13, is_paged=True)
    config = read_config(folder, read_manifest(folder))
    assert config.is_paged and not config.is_packed and config.lengths_unit == "mel"
    change_config(folder, kv_cache_type="CONTINUOUS")
    assert not read_config(folder, read_manifest(folder)).is_paged


def test_versions_are_compared_as_numbers() -> None:
    assert parse_version("0.12.0.dev2024070900") == (0, 12, 0)
    assert parse_version("1.2.1") > parse_version("0.13.0") > parse_version("0.12.0+local")


def test_a_spectrogram_of_another_shape_is_refused(make: Any) -> None:
    _, folder = make(**V12)
    with pytest.raises(ValueError, match=r"takes float32 \(80, 3000\)"):
        load(folder).encode(np.zeros((80, 1500), np.float32))
