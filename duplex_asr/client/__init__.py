"""For programs that use the daemon: its events as they happen, and requests to it.

    from duplex_asr.client import EventStream, Transcript

    for event in EventStream():
        if isinstance(event, Transcript):
            print(event.text)

`duplex_asr.client.aio` has the same for asyncio. Neither loads numpy or an engine. A program that
must do without this package needs a few lines more, see docs/protocol.md and examples/.
"""

from duplex_asr.client.blocking import Control, EventStream
from duplex_asr.errors import RequestError, ServiceError
from duplex_asr.service.client import Address, read_events
from duplex_asr.service.events import (
    Dropped,
    Error,
    Event,
    Level,
    Missed,
    NoSpeech,
    Partial,
    PlaybackPaused,
    PlaybackResumed,
    PlaybackStarted,
    PlaybackStopped,
    State,
    Transcript,
    Unknown,
    UtteranceRejected,
    VoiceStarted,
    VoiceStopped,
)

__all__ = [
    "Address",
    "Control",
    "Dropped",
    "Error",
    "Event",
    "EventStream",
    "Level",
    "Missed",
    "NoSpeech",
    "Partial",
    "PlaybackPaused",
    "PlaybackResumed",
    "PlaybackStarted",
    "PlaybackStopped",
    "RequestError",
    "ServiceError",
    "State",
    "Transcript",
    "Unknown",
    "UtteranceRejected",
    "VoiceStarted",
    "VoiceStopped",
    "read_events",
]
