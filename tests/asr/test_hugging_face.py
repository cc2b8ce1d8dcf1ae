from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duplex_asr.asr.checkpoint import read_checkpoint
from duplex_asr.errors import CheckpointError
from tests.asr.hugging_face_writer import (
    renamed,
    write_folder,
    write_safetensors,
)
from tests.asr.torch_writer import SMALL, random_weights

EMBEDDING = "model.decoder.embed_tokens.weight"


def assert_is_whole(folder: Path, seed: int = 0) -> None:
    checkpoint = read_checkpoint(folder)
    assert checkpoint.dimensions == SMALL
    for name, values in random_weights(seed=seed).items():
        np.testing.assert_array_equal(checkpoint.weight(name), values.astype(np.float32))


@pytest.mark.parametrize("num_shards", [0, 1, 3])
def test_a_folder_is_read_with_all_its_weights_by_openais_names(
    tmp_path: Path, num_shards: int
) -> None:
    folder = write_folder(tmp_path / "m", random_weights(seed=3), num_shards=num_shards)
    assert_is_whole(folder, seed=3)


def test_the_files_that_were_read_are_named_in_order(tmp_path: Path) -> None:
    one = read_checkpoint(write_folder(tmp_path / "one"))
    assert [path.name for path in one.files] == ["config.json", "model.safetensors"]
    two = read_checkpoint(write_folder(tmp_path / "two", num_shards=2))
    assert [path.name for path in two.files] == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_float32_and_bfloat16_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    weights = random_weights(dtype="float32")
    bits = {name: (w.view(np.uint32) >> 16).astype(np.uint16) for name, w in weights.items()}
    if dtype == "uint16":
        weights = {n: (b.astype(np.uint32) << 16).view(np.float32) for n, b in bits.items()}
    checkpoint = read_checkpoint(
        write_folder(tmp_path / "m", weights if dtype != "uint16" else bits)
    )
    for name, values in weights.items():
        np.testing.assert_array_equal(checkpoint.weight(name), values)


def test_a_model_without_a_head_has_no_prefix(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    write_safetensors(folder / "model.safetensors", renamed(random_weights(), prefix=""))
    assert_is_whole(folder)


@pytest.mark.parametrize("is_tied", [True, False])
def test_an_output_projection_that_is_the_embedding_may_be_there(
    tmp_path: Path, is_tied: bool
) -> None:
    folder = write_folder(tmp_path / "m", tie_word_embeddings=is_tied)
    tensors = renamed(random_weights())
    write_safetensors(
        folder / "model.safetensors", tensors | {"proj_out.weight": tensors[EMBEDDING]}
    )
    assert_is_whole(folder)


def test_a_shared_tensor_may_be_saved_under_the_other_name(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    tensors = renamed(random_weights())
    tensors["proj_out.weight"] = tensors.pop(EMBEDDING)
    write_safetensors(folder / "model.safetensors", tensors)
    assert_is_whole(folder)


def test_files_may_be_links_as_in_the_download_cache(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (tmp_path / "blobs").mkdir()
    for path in list(folder.iterdir()):
        shutil.move(path, tmp_path / "blobs" / path.name)
        path.symlink_to(Path("..") / "blobs" / path.name)
    assert_is_whole(folder)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = renamed(random_weights())
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def _untie(tensors: dict[str, Any]) -> None:
    tensors["proj_out.weight"] = tensors[EMBEDDING] + np.float16(1)


def _remove_layer(tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if name.startswith("model.decoder.layers.1.")]:
        del tensors[name]


def _add_layer(tensors: dict[str, Any]) -> None:
    name = "model.decoder.layers.1.fc1.bias"
    tensors[name.replace("1.fc1", "2.fc1")] = tensors[name]


def _transpose(tensors: dict[str, Any]) -> None:
    tensors["model.encoder.layers.0.fc1.weight"] = tensors["model.encoder.layers.0.fc1.weight"].T


def _poison(tensors: dict[str, Any]) -> None:
    tensors["model.decoder.layer_norm.bias"][3] = np.nan


def _make_integer(tensors: dict[str, Any]) -> None:
    tensors["model.decoder.layer_norm.bias"] = np.zeros(32, np.int64)


def _mix(tensors: dict[str, Any]) -> None:
    tensors["encoder.layer_norm.bias"] = tensors["model.encoder.layer_norm.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_untie, r"proj_out\.weight that differs from decoder\.embed_tokens\.weight"),
        (_remove_layer, r"lacks model\.decoder\.layers\.1\.\S+, .* more tensors: not a whole"),
        (_add_layer, r"model\.decoder\.layers\.2\.fc1\.bias beyond what config\.json describes"),
        (_transpose, r"model\.\S+fc1\.weight has shape \(32, 128\), config\.json asks for \(128"),
        (_poison, r"model\.decoder\.layer_norm\.bias holds NaN"),
        (_make_integer, r"model\.decoder\.layer_norm\.bias is of type int64, not of a float type"),
        (_mix, r"encoder\.layer_norm\.bias beside tensors whose names begin model\."),
    ],
)
def test_weights_that_are_no_whisper_are_refused_by_their_own_names(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = write_folder(tmp_path / "m")
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "a model of the type 'bart': only 'whisper'"),
        ({"model_type": None}, "a model of the type None"),
        ({"d_model": "wide"}, "config.json has no usable value for d_model"),
        ({"encoder_layers": 0}, "no usable value for encoder_layers"),
        ({"vocab_size": 2**40}, "no usable value for vocab_size"),
        ({"decoder_attention_heads": 3}, "d_model 32 is no multiple of decoder_attention_heads 3"),
        ({"num_mel_bins": 40}, "40 mel bins"),
        ({"encoder_ffn_dim": 100}, "has encoder_ffn_dim 100 where every Whisper has 128"),
        ({"activation_function": "relu"}, "activation_function 'relu' where every"),
        ({"scale_embedding": True}, "scale_embedding True where every"),
        ({"tie_word_embeddings": False}, r"no proj_out\.weight, and its config\.json says"),
    ],
)
def test_a_config_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_folder(tmp_path / "m", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_a_config_that_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json is no "):
        read_checkpoint(folder)


def test_folders_that_lack_a_file_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", num_shards=2)
    first = folder / "model-00001-of-00002.safetensors"
    first.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {first.name}, which model.safetensors.index"):
        read_checkpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        read_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin alone: load it with transformers"
    ):
        read_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json: give an OpenAI-format \.pt"):
        read_checkpoint(folder)


def test_a_single_weights_file_is_answered_with_the_folder_it_needs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"give the folder that it is in, with config\.json"):
        read_checkpoint(folder / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", ".safetensors",
     "x.bin", 3, "a\\b.safetensors", "x.safetensors\n", "~root.safetensors"],
)  # fmt: skip
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: Any) -> None:
    write_safetensors(tmp_path / "secret.safetensors", renamed(random_weights()))
    folder = write_folder(tmp_path / "m", num_shards=2)
    index = {"weight_map": dict.fromkeys(renamed(random_weights()), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is no safetensors file of this folder: refused"):
        read_checkpoint(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {}}, {"weight_map": []}])
def test_an_index_without_a_map_is_refused(tmp_path: Path, index: Any) -> None:
    folder = write_folder(tmp_path / "m", num_shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        read_checkpoint(folder)


def test_shards_must_hold_what_the_index_says_and_nothing_twice(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", num_shards=2)
    first, second = (folder / f"model-0000{index}-of-00002.safetensors" for index in (1, 2))
    tensors = renamed(random_weights())
    names = sorted(tensors)
    part = {name: tensors[name] for name in names[1::2]}
    lost, doubled = names[1], names[0]
    write_safetensors(second, {name: values for name, values in part.items() if name != lost})
    with pytest.raises(CheckpointError, match=f"{second.name} lacks {lost}, which model.safe"):
        read_checkpoint(folder)
    write_safetensors(second, part | {doubled: tensors[doubled]})
    with pytest.raises(CheckpointError, match=f"{second.name} holds {doubled}, as another shard"):
        read_checkpoint(folder)
    write_safetensors(second, part | {"model.extra": tensors[doubled]})
    with pytest.raises(CheckpointError, match=r"holds model\.extra, which .*index\.json has not"):
        read_checkpoint(folder)
    assert first.exists()


def test_truncated_files_are_refused_wherever_they_end(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    for size in (0, 3, 8, 100, 8 + header, 8 + header + 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .* download it"):
            read_checkpoint(folder)


def test_a_note_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_checkpoint(folder)


def test_a_header_with_any_byte_changed_is_read_as_it_was_or_refused(tmp_path: Path) -> None:
    """Never another exception, and never weights of another shape."""
    folder = write_folder(tmp_path / "m")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(0, 8 + header, 60).tolist() + list(range(8)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert read_checkpoint(folder).dimensions == SMALL
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
