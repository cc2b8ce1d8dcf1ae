"""The example of a conversation: a real daemon, a speaker in software, a scripted endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.daemon_process import DEMO, running_daemon
from tests.soundcard import SoundCard

pytestmark = pytest.mark.soundcard
EXAMPLE = Path(__file__).parents[1] / "examples" / "voice_agent.py"
SPOKEN = json.loads((DEMO / "demo.json").read_text())
ANSWERS = [
    "I am here, and I listen to you. Just say what you want to know, and take your time with it.",
    "Thank you.",
]


class Script(BaseHTTPRequestHandler):
    """Answers each request with the next text, word by word, as OpenAI's API streams it."""

    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append({"path": self.path, **json.loads(body)})
        self.send_response(200)
        self.end_headers()
        for word in ANSWERS[(len(self.requests) - 1) % len(ANSWERS)].split(" "):
            piece = {"choices": [{"delta": {"content": f"{word} "}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.write(b'data: {"choices": []}\n\ndata: [DONE]\n\n')

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted_endpoint() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    Script.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", Script.requests
        finally:
            server.shutdown()
            thread.join()


def test_it_answers_is_interrupted_and_tells_the_model_what_was_heard(
    tmp_path: Path, sound_card: SoundCard
) -> None:
    recording = tmp_path / "person.wav"
    samples, rate = soundfile.read(DEMO / "demo.flac", dtype="float32")
    end_ms = SPOKEN[1]["start_ms"] + 4_000  # "computer", and while the device answers: a number
    soundfile.write(recording, samples[: end_ms * rate // 1000], rate)
    run = tmp_path / "run"
    serve = ["--source", f"file:{recording}", "--wait-for-listener"]
    with scripted_endpoint() as (url, requests), running_daemon(run, *serve, env=sound_card.env):
        with subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLE), "--url", url, "--model", "m",
             "--runtime-dir", str(run)],
            stdout=subprocess.PIPE, text=True, env=sound_card.env,
        ) as agent:  # fmt: skip
            assert agent.stdout is not None
            lines = [agent.stdout.readline().strip() for _ in range(4)]
            agent.terminate()
    person, interrupted, number, answer = lines
    assert person == "person: computer" and number == f"person: {SPOKEN[1]['text']}", lines
    heard = interrupted.removeprefix("device: ").removesuffix(" ...")
    assert interrupted.endswith(" ...") and heard and ANSWERS[0].startswith(heard)
    assert answer == f"device: {ANSWERS[1]}"
    first, second = requests
    assert first["path"] == "/v1/chat/completions" and first["model"] == "m"
    assert [each["role"] for each in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == heard


def test_an_endpoint_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, str(EXAMPLE), "--url", "http://127.0.0.1:1/v1", "--model", "m",
         "--runtime-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert answer.returncode == 1 and "duplex-asr serve" in answer.stderr


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 150
