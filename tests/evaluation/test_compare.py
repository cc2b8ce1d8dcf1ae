"""`duplex-asr eval --compare` with two real engines: the demo engine, and itself in int8."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from duplex_asr.asr.export.build import build_onnx_engine
from duplex_asr.config import load_config
from duplex_asr.evaluation.compare_report import as_lines, as_report
from duplex_asr.evaluation.comparison import Comparison, compare
from duplex_asr.evaluation.dataset import open_dataset
from duplex_asr.evaluation.html_report import write_comparison
from duplex_asr.evaluation.interrupt import Interrupt
from duplex_asr.evaluation.probing import PairProbe
from duplex_asr.evaluation.recognition import Recogniser
from duplex_asr.evaluation.spool import Record, Spool
from tests.daemon_process import DEMO
from tests.evaluation.stand_in import ENGINE
from tests.evaluation.test_command import run
from tests.evaluation.test_html_report import Page

GULLIBLE = {"no_speech_threshold": 1.0, "min_avg_logprob": -20.0}


@pytest.fixture(scope="module")
def int8_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "demo-int8"
    decoding = {"no_speech_threshold": 0.8, "no_speech_logprob": 0.0}
    build_onnx_engine(
        DEMO / "checkpoint.pt", folder, "int8",
        tokenizer_path=DEMO / "tokenizer.tiktoken", decoding=decoding,
    )  # fmt: skip
    return folder


def load(folder: Path, path: Any = "whole", **transcription: Any) -> Recogniser:
    overrides = {"engine": {"path": str(folder), "threads": 1}, "transcription": transcription}
    return Recogniser.load(load_config(None, overrides), path, keeps_sound=True)


@pytest.fixture(scope="module")
def demo() -> Iterator[Recogniser]:
    engine = load(DEMO)
    yield engine
    engine.close()


def compared(
    first: Recogniser, second: Recogniser, dataset: Path
) -> tuple[Comparison, list[Record], dict[str, Any], str]:
    """The comparison, its records, its report and its page."""
    probe = PairProbe(first, second)
    with Spool() as spool:
        found = compare(
            [open_dataset(dataset)], (first, second), probe.compare, str, spool, Interrupt(), []
        )
        report = as_report(found, (ENGINE, ENGINE), probe.missing, "duplex-asr eval")
        file = io.StringIO()
        write_comparison(report, spool, file)
        return found, list(map(json.loads, spool.lines())), report, file.getvalue()


def test_an_engine_agrees_with_itself(demo: Recogniser, spoken_words: Path) -> None:
    _, records, report, html = compared(demo, demo, spoken_words)
    assert [each["first"] for each in records] == ["none"] * 4
    assert report["differences"]["identical"] == 4
    assert report["a"]["wer"] == report["b"]["wer"] == 0
    assert "Both engines computed the same" in " ".join(as_lines(report))
    assert "Recordings with other texts None." in Page(html).words


def test_int8_parts_at_the_encoder_and_says_precision(
    demo: Recogniser, int8_dir: Path, spoken_words: Path
) -> None:
    _, records, report, _ = compared(demo, load(int8_dir), spoken_words)
    assert {each["first"] for each in records} == {"encoder"}
    encoder = report["differences"]["stages"]["encoder"]
    assert encoder["first"] == 4 and 1e-3 < encoder["median"] < 0.1
    assert report["differences"]["stages"]["mel"]["largest"] == 0
    assert report["differences"]["num_recordings_with_other_texts"] == 0
    assert any("as precision makes it" in each for each in report["differences"]["hints"])


def test_other_thresholds_part_at_the_guards(demo: Recogniser, spoken_words: Path) -> None:
    _, records, report, html = compared(demo, load(DEMO, **GULLIBLE), spoken_words)
    assert [each["first"] for each in records] == ["none", "none", "none", "guards"]
    assert report["a"]["hallucinated_words"] == 0 < report["b"]["hallucinated_words"]
    assert "compare thresholds" in Page(html).words and "silence.flac" in html


def test_another_path_parts_where_utterances_begin(demo: Recogniser, spoken_words: Path) -> None:
    _, records, report, _ = compared(demo, load(DEMO, "daemon"), spoken_words)
    assert "cut" in {each["first"] for each in records}
    assert any("look at chunking" in each for each in report["differences"]["hints"])


class SureOfOne:
    """The demo engine with one token less to choose from: it parts at a token it must not say."""

    def __init__(self, engine: Any, token: int) -> None:
        self._engine = engine
        self.dimensions, self.tokenizer = engine.dimensions, engine.tokenizer
        self.thresholds = engine.thresholds
        self._token = token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def new_sequence(self, encoded: Any) -> Any:
        sequence = self._engine.new_sequence(encoded)

        def advance(tokens: Any) -> Any:
            logits = sequence.advance(tokens).copy()
            logits[:, self._token] = -30.0
            return logits

        return SimpleNamespace(advance=advance, append=sequence.append, truncate=sequence.truncate)

    def decode(self, *arguments: Any, **options: Any) -> Any:
        return type(self._engine).decode(self, *arguments, **options)

    def logits(self, encoded: Any, tokens: Any) -> Any:
        return self.new_sequence(encoded).advance(tokens)


def test_the_first_token_that_differs_comes_with_both_beliefs(
    demo: Recogniser, spoken_words: Path
) -> None:
    (two,) = demo.engine.tokenizer.encode(" two")
    engine = SureOfOne(demo.engine, two)
    other = Recogniser(DEMO, demo.manifest, engine, demo.config, "whole", True)
    _, records, report, html = compared(demo, other, spoken_words)
    assert [each["first"] for each in records] == ["none", "token", "none", "none"]
    token = records[1]["differences"][0]["token"]
    assert (token["index"], token["before"].strip(), token["tokens"][0]) == (1, "seven", two)
    first, second = token["beliefs"]
    assert first["probabilities"][0] > 0.5 > second["probabilities"][0]
    assert second["logits"][0] == -30.0 and first["logits"][1] == second["logits"][1]
    assert report["differences"]["stages"]["token"]["differs"] == 1
    assert "A writes" in Page(html).words and "was sure of its word" in Page(html).words


def test_engines_that_cannot_be_asked_say_so_and_are_compared_by_their_tokens(
    demo: Recogniser, spoken_words: Path
) -> None:
    (two,) = demo.engine.tokenizer.encode(" two")
    sure = SureOfOne(demo.engine, two)
    mute: Any = SimpleNamespace(
        **{name: getattr(sure, name) for name in ("encode", "decode", "dimensions", "tokenizer")},
        thresholds=sure.thresholds,
        backend=sure.backend,
    )
    other = Recogniser(DEMO, demo.manifest, mute, demo.config, "whole", True)
    _, records, report, html = compared(demo, other, spoken_words)
    assert report["missing"] == [
        "demo (onnx) does not give the encoder's output", "demo (onnx) does not give logits",
    ]  # fmt: skip
    difference = records[1]["differences"][0]
    assert difference["encoder"] is None and difference["token"]["beliefs"][1] is None
    assert difference["token"]["beliefs"][0]["probabilities"][0] > 0.5
    assert records[1]["first"] == "token" and "cannot tell" in Page(html).words


def test_the_command_writes_both_reports(spoken_words: Path, tmp_path: Path) -> None:
    answer = run(
        spoken_words, "--limit", 2, "--compare", DEMO, DEMO, "--path-b", "daemon",
        "--json", tmp_path / "a.json", "--html", tmp_path / "a.html", engine=None,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "where utterances begin and end" in answer.stdout
    report = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert report["a"]["engine"]["path"] == "whole" and report["b"]["engine"]["path"] == "daemon"
    assert len(report["recordings"]) == 2 and report["partial"] is False
    assert "Where they part first" in (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "a", "b"], "leave one of them out"),
        (["--path-b", "whole"], "go with --compare"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    spoken_words: Path, arguments: list[str], message: str
) -> None:
    answer = run(spoken_words, *arguments)
    assert answer.returncode == 2 and message in answer.stderr
