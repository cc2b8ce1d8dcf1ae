from __future__ import annotations

from dataclasses import fields, replace

from duplex_asr.barge_in import BargeInConfig
from duplex_asr.config import Config
from duplex_asr.hearing.endpointer_config import EndpointerConfig
from duplex_asr.live_settings import LIVE_KEYS, compare


def test_what_can_change_does_and_the_rest_is_named() -> None:
    running = Config()
    wanted = replace(
        running,
        barge_in=replace(running.barge_in, policy="duck"),
        endpointer=replace(running.endpointer, threshold=0.7, max_utterance_ms=10_000),
        engine=replace(running.engine, path="/another"),
    )
    change = compare(running, wanted)
    assert change.config == replace(
        running,
        barge_in=BargeInConfig(policy="duck"),
        endpointer=EndpointerConfig(threshold=0.7),
    )
    assert set(change.applied) == {"endpointer.threshold", "barge_in.policy"}
    assert set(change.waiting) == {"endpointer.max_utterance_ms", "engine.path"}
    assert str(change) == (
        "changed endpointer.threshold, barge_in.policy; after a restart: "
        "endpointer.max_utterance_ms, engine.path"
    )


def test_the_same_file_changes_nothing() -> None:
    change = compare(Config(), Config())
    assert change.config == Config()
    assert str(change) == "nothing has changed"


def test_a_waiting_key_is_named_at_every_reload_until_the_restart() -> None:
    wanted = replace(Config(), engine=replace(Config().engine, threads=2))
    once = compare(Config(), wanted)
    assert compare(once.config, wanted).waiting == ("engine.threads",)


def test_every_live_key_is_a_setting() -> None:
    for section, keys in LIVE_KEYS.items():
        assert keys <= {each.name for each in fields(getattr(Config(), section))}
