"""Prints what is said, on asyncio: python examples/listen_async.py [events.sock]"""

import asyncio
import sys
from pathlib import Path

from duplex_asr.client import Transcript
from duplex_asr.client.aio import EventStream


async def listen(path: Path | None) -> None:
    async for event in EventStream(path, events=["transcript"]):
        if isinstance(event, Transcript):
            print(event.text, flush=True)


asyncio.run(listen(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
