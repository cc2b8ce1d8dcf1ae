"""What a folder of TensorRT-LLM engines says of itself: `config.json` beside each engine.

Two questions depend on the version that built them: which runtime runs them, and in which unit
the encoder is told how long the sound is. Figures are those of TensorRT-LLM's release notes and
examples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from duplex_asr.asr.manifest import Manifest
from duplex_asr.asr.mel import N_FRAMES
from duplex_asr.errors import EngineError

AUDIO_POSITIONS = N_FRAMES // 2  # what the encoder makes of 30 s
REBUILD = "build it again with `build_scripts/build_base_en.sh` or its siblings"

Version = tuple[int, ...]
FIRST_WITH_EXECUTOR: Version = (0, 13)  # Whisper in the C++ runtime
FIRST_WITH_KV_CACHE_TYPE: Version = (0, 13)  # the enum; before that a bool
FIRST_WITH_SHORT_INPUT: Version = (0, 15)  # before that the encoder takes 3000 frames and no other
FIRST_WITHOUT_ENGINES: Version = (1, 3)


@dataclass(frozen=True)
class TrtLlmConfig:
    """Both engines in figures.

    lengths_unit: "output" if the encoder is told its own output positions (50 a second), "mel" if
    it is told mel frames (100 a second).
    padding: "max" gives the encoder 3000 frames always, "trim" only those up to the end of sound.
    """

    folder: Path
    version: Version
    dtype: str
    num_layers: int
    num_heads: int
    hidden_size: int
    vocab_size: int
    has_position_embedding: bool
    gpt_attention_plugin: Any
    is_paged: bool
    is_packed: bool
    tokens_per_block: int
    max_batch_size: int
    max_beam_width: int
    max_seq_len: int
    max_input_len: int
    lengths_unit: Literal["output", "mel"]
    padding: Literal["max", "trim"]

    @property
    def runs_in_executor(self) -> bool:
        """The C++ runtime wants paged and packed engines; the Python one takes the others."""
        return self.version >= FIRST_WITH_EXECUTOR and self.is_paged and self.is_packed

    def kv_tokens(self) -> tuple[int, int]:
        """Tokens that the self- and the cross-attention cache must hold, in whole blocks."""
        block = self.tokens_per_block
        sizes = (self.max_seq_len, AUDIO_POSITIONS)
        own, cross = (-(-size // block) * block for size in sizes)
        return own, cross


def read_config(folder: Path, manifest: Manifest) -> TrtLlmConfig:
    """Read and check both `config.json`. Raises EngineError that says what to build instead."""
    content = _read_json(folder / "decoder" / "config.json")
    try:
        config = _parse(folder, manifest, content)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{folder / 'decoder' / 'config.json'} is incomplete ({error!r}): {REBUILD}"
        ) from error
    _check(config, manifest, content["build_config"].get("max_encoder_input_len", 0))
    return config


def parse_version(text: str) -> Version:
    """ "0.12.0" -> (0, 12, 0); what follows the numbers does not matter."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({error}): {REBUILD}") from error
    return content


def _parse(folder: Path, manifest: Manifest, content: dict[str, Any]) -> TrtLlmConfig:
    model, build = content["pretrained_config"], content["build_config"]
    plugins = build["plugin_config"]
    version = parse_version(manifest.built_with.get("tensorrt_llm") or content["version"])
    kind = build.get("kv_cache_type")  # since 0.13; a bool in the plugins before
    is_paged = str(kind).upper().endswith("PAGED") if kind else bool(plugins["paged_kv_cache"])
    default_unit = "output" if version < (0, 13) else "mel"
    return TrtLlmConfig(
        folder=folder,
        version=version,
        dtype=model["dtype"],
        num_layers=int(model["num_hidden_layers"]),
        num_heads=int(model["num_attention_heads"]),
        hidden_size=int(model["hidden_size"]),
        vocab_size=int(model["vocab_size"]),
        has_position_embedding=bool(model["has_position_embedding"]),
        gpt_attention_plugin=plugins["gpt_attention_plugin"],
        is_paged=is_paged,
        is_packed=bool(plugins["remove_input_padding"]),
        tokens_per_block=int(plugins.get("tokens_per_block", 64)),
        max_batch_size=int(build["max_batch_size"]),
        max_beam_width=int(build["max_beam_width"]),
        max_seq_len=int(build["max_seq_len"]),
        max_input_len=int(build["max_input_len"]),
        lengths_unit=_one_of(
            manifest, "encoder_input_lengths_unit", default_unit, ("output", "mel")
        ),
        padding=_one_of(manifest, "padding", "max", ("max", "trim")),
    )


def _one_of(manifest: Manifest, key: str, default: str, choices: tuple[str, ...]) -> Any:
    value = manifest.built_with.get(key, default)
    if value not in choices:
        raise EngineError(f"the manifest says {key} {value!r}: it is {' or '.join(choices)}")
    return value


def _check(config: TrtLlmConfig, manifest: Manifest, max_encoder_input_len: int) -> None:
    dimensions = manifest.dimensions
    if config.vocab_size < dimensions.n_vocab:
        raise EngineError(
            f"the decoder in {config.folder} has {config.vocab_size} tokens and its manifest names "
            f"{dimensions.n_vocab}: they are of two models, {REBUILD}"
        )
    if max_encoder_input_len < AUDIO_POSITIONS:
        raise EngineError(
            f"wrong length unit: the decoder in {config.folder} was built with "
            f"max_encoder_input_len {max_encoder_input_len}, and 30 s are {AUDIO_POSITIONS} "
            f"encoder positions (a shorter encoder does not exist): {REBUILD}"
        )
    if config.padding == "trim" and config.version < FIRST_WITH_SHORT_INPUT:
        built_by = ".".join(map(str, config.version))
        raise EngineError(
            f"static dimension mismatch: encoders of TensorRT-LLM {built_by} take exactly "
            f"{N_FRAMES} frames: use padding max, trim needs 0.15"
        )
    if config.is_paged and config.max_beam_width != 1:
        raise EngineError(
            f"{config.folder} has a paged KV cache and beam width {config.max_beam_width}, which "
            f"TensorRT-LLM does not run for Whisper: {REBUILD}"
        )
