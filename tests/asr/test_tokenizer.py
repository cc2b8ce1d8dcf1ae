from __future__ import annotations

from pathlib import Path

import pytest

from duplex_asr.asr.tokenizer import LANGUAGES, Tokenizer, bundled_ranks, read_ranks
from duplex_asr.errors import ConfigError, EngineError

# Sizes of OpenAI's vocabularies: English-only, multilingual, large-v3.
VOCABULARIES = [(51864, False, 99), (51865, True, 99), (51866, True, 100)]


def load(n_vocab: int, is_multilingual: bool) -> Tokenizer:
    return Tokenizer(read_ranks(bundled_ranks(is_multilingual)), n_vocab, is_multilingual)


@pytest.mark.parametrize(("n_vocab", "is_multilingual", "num_languages"), VOCABULARIES)
def test_special_tokens_fill_the_vocabulary_exactly(
    n_vocab: int, is_multilingual: bool, num_languages: int
) -> None:
    tokenizer = load(n_vocab, is_multilingual)
    assert tokenizer.languages == LANGUAGES[:num_languages]
    assert tokenizer.special("<|30.00|>") == n_vocab - 1
    assert tokenizer.special("<|0.00|>") == n_vocab - 1501 == tokenizer.no_timestamps + 1


def test_english_models_are_prompted_without_language_and_task() -> None:
    assert load(51864, False).prompt() == (50257, 50362)  # ids in OpenAI's gpt2 vocabulary


def test_multilingual_models_are_prompted_with_language_and_task() -> None:
    tokenizer = load(51865, True)
    assert tokenizer.prompt("de") == (50258, 50261, 50359, 50363)
    assert tokenizer.prompt("en", "translate") == (50258, 50259, 50358, 50363)


def test_a_language_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="'de': this is an English-only model"):
        load(51864, False).prompt("de")
    with pytest.raises(ConfigError, match="'yue': the model knows en zh"):
        load(51865, True).prompt("yue")


def test_text_survives_the_round_trip_and_special_names_are_only_text() -> None:
    tokenizer = load(51864, False)
    for text in (" Hello, world!", "naïve café ♪ 日本語", "<|endoftext|> is spelled out"):
        tokens = tokenizer.encode(text)
        assert max(tokens) < tokenizer.eot
        assert tokenizer.decode(tokens) == text


def test_special_tokens_have_no_text() -> None:
    tokenizer = load(51864, False)
    tokens = [*tokenizer.prompt(), *tokenizer.encode(" yes"), tokenizer.eot]
    assert tokenizer.decode(tokens) == " yes"


@pytest.mark.parametrize(
    ("n_vocab", "is_multilingual", "count", "total"),
    # get_tokenizer(False) and (True).non_speech_tokens of openai-whisper 20250625.
    [(51864, False, 84, 750220), (51865, True, 82, 826094)],
)
def test_non_speech_tokens_are_those_of_whisper(
    n_vocab: int, is_multilingual: bool, count: int, total: int
) -> None:
    tokens = load(n_vocab, is_multilingual).non_speech_tokens
    assert tokens[:8] == (1, 2, 7, 8, 9, 10, 14, 25)
    assert (len(tokens), sum(tokens)) == (count, total)


def test_the_end_is_never_suppressed_but_may_not_come_first() -> None:
    tokenizer = load(51864, False)
    assert {tokenizer.sot, tokenizer.no_speech} <= set(tokenizer.suppressed_tokens)
    assert tokenizer.eot not in tokenizer.suppressed_tokens
    assert tokenizer.blank_tokens == (220, 50256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not base64 at all", "not a tokenizer in tiktoken format"),
        (b"IQ== zero\n", "not a tokenizer in tiktoken format"),
        (b"IQ== 0\nIg== 2\n", "ranks do not count"),
        (b"IQ== 0\nIg== 1\n", "254 single bytes have no token"),
        (b"", "256 single bytes have no token"),
    ],
)
def test_a_damaged_rank_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.tiktoken"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=message):
        read_ranks(path)


def test_a_missing_rank_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="missing.tiktoken: No such file"):
        read_ranks(tmp_path / "missing.tiktoken")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(EngineError, match="do not belong together"):
        Tokenizer(read_ranks(bundled_ranks(False)), 51968, True)


def test_with_timestamps_the_prompt_does_not_rule_them_out() -> None:
    assert load(51865, True).prompt("de", timestamps=True) == (50258, 50261, 50359)
    assert load(51864, False).prompt(timestamps=True) == (50257,)
    assert load(51865, True).timestamp_begin == 50364


def test_an_english_only_model_does_not_translate() -> None:
    with pytest.raises(ConfigError, match=r"transcription.task = 'translate'.*multilingual"):
        load(51864, False).prompt("en", "translate")


def test_context_is_the_end_of_a_text_behind_its_mark() -> None:
    tokenizer = load(51865, True)
    mark = tokenizer.special("<|startofprev|>")
    assert tokenizer.context(" Hello there \n", 223) == (mark, *tokenizer.encode(" Hello there"))
    words = tokenizer.encode(" " + " ".join(["one two three"] * 100))
    assert tokenizer.context("one two three " * 100, 223) == (mark, *words[-223:])
    assert tokenizer.context("  ", 223) == ()


def test_names_of_special_tokens_in_a_context_are_spelled_out() -> None:
    tokenizer = load(51865, True)
    found = tokenizer.context("<|startoftranscript|><|endoftext|>", 223)
    assert max(found[1:]) < tokenizer.eot
    assert tokenizer.decode(found) == " <|startoftranscript|><|endoftext|>"


def test_language_tokens_are_those_of_the_languages() -> None:
    tokenizer = load(51866, True)
    names = [f"<|{language}|>" for language in tokenizer.languages]
    assert [*tokenizer.language_tokens] == [tokenizer.special(name) for name in names]
