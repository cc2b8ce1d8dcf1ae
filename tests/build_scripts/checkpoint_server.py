"""A local web server with one checkpoint, and with the faults that servers have."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.build_scripts.board import Board

CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = "base.en"


@dataclass
class CheckpointServer:
    """faults: what befalls each request in turn, after the last of them nothing.

    "cut N": the connection ends after N bytes; "hang N": it stays open without another byte until
    `go_on` is set; "no ranges": the file is always sent from its beginning; "status N": an error.
    ranges: where each request wanted to begin.
    """

    url: str = ""
    content: bytes = CONTENT
    faults: list[str] = field(default_factory=list)
    ranges: list[int] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "bytes=0-")
        first = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.ranges.append(first)
        fault, _, number = (self.faults.pop(0) if self.faults else "").partition(" ")
        size = len(self.content)
        if fault == "no":
            first = 0
        if fault == "status" or first >= size:
            request.send_error(int(number) if fault == "status" else 416)
            return
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(size - first))
        if first:
            request.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        request.end_headers()
        most = first + int(number) if fault in ("cut", "hang") else size
        request.wfile.write(self.content[first:most])
        if fault == "hang":
            request.wfile.flush()
            self.hanging.set()
            self.go_on.wait(30)
            request.wfile.write(self.content[most:])
        request.close_connection = True


@contextmanager
def serving(board: Board) -> Iterator[CheckpointServer]:
    """A server whose file is the one that the board's table expects for base.en."""
    server = CheckpointServer()
    list_checkpoint(board)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                server.answer(self)
            except ConnectionError:
                pass  # the client was killed

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        server.url = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        board.environment["CHECKPOINT_URL"] = server.url
        try:
            yield server
        finally:
            server.go_on.set()
            web.shutdown()
            thread.join()


def list_checkpoint(board: Board, content: bytes = CONTENT) -> None:
    """Have the board's table expect `content` as base.en."""
    table = board.repo / "build_scripts/checkpoints.txt"
    lines = [line for line in table.read_text().splitlines() if not line.startswith(f"{NAME} ")]
    sha256 = hashlib.sha256(content).hexdigest()
    table.write_text("\n".join([*lines, f"{NAME} {sha256} 146", ""]))
