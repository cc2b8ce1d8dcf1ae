"""Prints what is said: python examples/listen.py [events.sock]"""

import sys
from pathlib import Path

from duplex_asr.client import EventStream, Missed, Transcript

path = Path(sys.argv[1]) if len(sys.argv) > 1 else None  # None: the daemon of this user
for event in EventStream(path, events=["transcript"]):  # connects again if the daemon restarts
    if isinstance(event, Transcript):
        print(event.text, flush=True)
    elif isinstance(event, Missed):
        print(f"(something was missed: {event.reason})", file=sys.stderr)
