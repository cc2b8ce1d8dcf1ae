"""A conversation: what is said goes to a chat endpoint, what that answers is spoken as it comes.

    python examples/voice_agent.py --url http://127.0.0.1:8080/v1 --model NAME

The endpoint is any that speaks OpenAI's chat API: llama.cpp, Ollama, vLLM, a cloud. Its key, if it
wants one, stands in OPENAI_API_KEY. Speak over the answer and it stops; the model is then told how
much of it you have heard. Needs a running `duplex-asr serve`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from duplex_asr.client import Control, EventStream, Transcript
from duplex_asr.errors import DuplexAsrError

PROMPT = "You speak with somebody. Answer in one or two short sentences, without lists or marks."
MAX_MESSAGES = 40  # of the conversation that the model is shown


class Endpoint:
    """Streams answers of one model."""

    def __init__(self, url: str, model: str) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model

    def answer(self, messages: list[dict[str, str]], is_over: threading.Event) -> Iterator[str]:
        """The pieces of an answer as they come, until it ends or is over."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        body = {"model": self._model, "messages": messages, "stream": True}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                data = line.decode().removeprefix("data:").strip()
                if is_over.is_set() or data == "[DONE]":
                    return
                if line.startswith(b"data:") and data:
                    choices = json.loads(data).get("choices") or [{}]
                    if piece := choices[0].get("delta", {}).get("content"):
                        yield piece


class Turn(threading.Thread):
    """One answer: asked for, spoken while it comes, and noted as far as it was heard."""

    def __init__(self, endpoint: Endpoint, socket: Path | None, said: list[dict[str, str]]) -> None:
        super().__init__(daemon=True, name=f"turn-{uuid.uuid4().hex[:8]}")
        self._endpoint = endpoint
        self._socket = socket
        self._said = said
        self.is_over = threading.Event()
        self.heard = ""

    def run(self) -> None:
        messages = [{"role": "system", "content": PROMPT}, *self._said]
        try:
            with Control(self._socket) as control:
                pieces = self._endpoint.answer(messages, self.is_over)
                stopped = control.say(pieces, self.name, mode="replace")
            self.heard = stopped.heard_text
            print(f"device: {self.heard}{'' if stopped.reason == 'finished' else ' ...'}")
        except (DuplexAsrError, OSError, ValueError) as exc:
            print(f"no answer: {exc}", file=sys.stderr)

    def end(self) -> str:
        """Have it be over; what was heard of it."""
        self.is_over.set()
        with Control(self._socket) as control:
            control.cancel(self.name)
        self.join()
        return self.heard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="of the endpoint, up to /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtime-dir", type=Path, help="of the daemon, if it has its own")
    options = parser.parse_args()
    folder: Path | None = options.runtime_dir
    endpoint = Endpoint(options.url, options.model)
    said: list[dict[str, str]] = []
    turn: Turn | None = None
    for event in EventStream(folder and folder / "events.sock", events=["transcript"]):
        if not isinstance(event, Transcript):
            continue
        print(f"person: {event.text}", flush=True)
        if turn is not None and (heard := turn.end()):
            said.append({"role": "assistant", "content": heard})
        said = [*said, {"role": "user", "content": event.text}][-MAX_MESSAGES:]
        turn = Turn(endpoint, folder and folder / "control.sock", said)
        turn.start()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DuplexAsrError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
