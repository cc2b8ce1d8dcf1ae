"""docs/operations.md and its dashboard: what they name exists, and their commands are accepted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from duplex_asr.cli import make_parser
from duplex_asr.config import Config
from duplex_asr.service.metrics import STATES, prometheus_text
from tests.service_doubles import Room, run_without_leaks

REPO = Path(__file__).parents[1]
DOCS = REPO / "docs"
PAGE = (DOCS / "operations.md").read_text()
PROTOCOL = (DOCS / "protocol.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
TABLE_COMMANDS = re.findall(r"`((?:sudo |systemd/|build_scripts/|duplex-asr )[^`]*)`", PAGE)
SELECTOR = re.compile(r"(duplex_asr_\w+)(?:\{([^}]*)\})?")


def expressions() -> list[str]:
    """All that the dashboard asks for, and the alerts of the page."""
    alerts = re.findall(r"^\| `([^`]*duplex_asr_[^`]*)`", PAGE, re.MULTILINE)
    assert len(alerts) == 4
    return alerts + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def documented() -> dict[str, set[str]]:
    """Names of docs/protocol.md with their labels; summaries with their sum and count."""
    rows = re.findall(r"^\| (`duplex_asr_.*?) \| (\w+) \|(.*?)\|", PROTOCOL, re.MULTILINE)
    found = {}
    for names, kind, labels in rows:
        for name in re.findall(r"`(\w+)`", names):
            found[name] = set(re.findall(r"`(\w+)`", labels))
            if kind == "summary":
                found |= {f"{name}_sum": set(), f"{name}_count": set()}
    return found


METRICS = documented()


def test_a_daemon_has_the_metrics_and_labels_that_are_documented(tmp_path: Path) -> None:
    async def run() -> None:
        room = Room(tmp_path / "run")
        async with room.running():
            text = prometheus_text(room.daemon.status())
        assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) <= METRICS.keys()
        for name, labels in re.findall(r"^(duplex_asr_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
            assert set(re.findall(r'(\w+)="', labels)) <= METRICS[name], name

    run_without_leaks(run)


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_and_label_that_is_asked_for_exists(expression: str) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors
    for name, matchers in selectors:
        assert name in METRICS, name
        labels = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) - {"instance"}
        assert labels <= METRICS[name], (name, labels)
        for state in re.findall(r'state="(\w+)"', matchers):
            assert state in STATES


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == 16
    for panel in panels:
        assert panel["title"] and panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all(target["datasource"]["uid"] == "${source}" for target in panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def commands() -> Iterator[list[str]]:
    """Each command of the program, in blocks and in tables."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    for line in [*lines, *TABLE_COMMANDS]:
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            if word.rpartition("/")[2] == "duplex-asr" and words[0] in ("sudo", word):
                if words[index - 1] not in ("-u", "edit", "restart", "reload", "status"):
                    yield words[index + 1 :]


def test_commands_of_the_program_are_accepted() -> None:
    found = list(commands())
    assert len(found) > 10
    for words in found:
        make_parser().parse_args(words)


def test_settings_that_are_named_exist() -> None:
    sections = {each.name: {key.name for key in fields(getattr(Config(), each.name))}
                for each in fields(Config)}  # fmt: skip
    named = re.findall(r"[`, ]([a-z]+_?[a-z]*)\.([a-z_]+)\b(?= =|`|,)", PAGE)
    known = [(section, key) for section, key in named if section in sections]
    assert len(known) > 20
    for section, key in known:
        assert key in sections[section] or (section, key) == ("service", "d"), f"{section}.{key}"


def test_links_lead_somewhere() -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", PAGE):
        path = DOCS / target if target else DOCS / "operations.md"
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in anchors, (target, anchor)


def test_scripts_that_are_named_exist_and_know_their_options() -> None:
    scripts = r"((?:tests/)?(?:systemd|build_scripts)/\w+\.sh)((?: --[\w-]+)*)"
    for script, options in re.findall(scripts, PAGE):
        text = (REPO / script).read_text()
        for option in options.split():
            assert option in text or option == "--dry-run", (script, option)
