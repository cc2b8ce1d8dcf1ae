"""Every error that a user can meet, and the exit code each one ends the program with.

    DuplexAsrError            1   anything below, when it is not told apart further
    ├── ConfigError           2   a wrong option, key or value; systemd must not restart on it
    ├── EngineError           3   an engine folder is missing, damaged or built for something else
    │   └── CheckpointError   3   a model checkpoint cannot be read or is not a Whisper
    ├── VoiceError            3   a voice is missing, damaged, or cannot speak a text
    ├── NotEnoughMemoryError  3   engine, voice and the rest do not fit; the message is a table
    ├── OutOfBlocksError      1   all KV memory is taken: this request is refused, the others go on
    ├── GpuLostError          1   the GPU refuses this process from now on: only a new one can go on
    ├── AudioError            4   a device or a recording cannot be opened or read
    └── ServiceError          5   sockets or the runtime folder: taken, unreachable, not permitted
        └── RequestError      5   the daemon refused a request; its `code` is in docs/protocol.md

A message is one sentence that names the thing that is wrong and what to do about it. Programming
errors are plain exceptions and asserts: they are not in this tree, and they end with a traceback.
"""


class DuplexAsrError(Exception):
    """Base of all errors meant for the user."""

    exit_code = 1


class ConfigError(DuplexAsrError):
    """A command-line option or a configuration key is wrong."""

    exit_code = 2


class EngineError(DuplexAsrError):
    """An engine folder cannot be used."""

    exit_code = 3


class CheckpointError(EngineError):
    """A model checkpoint cannot be imported."""


class VoiceError(DuplexAsrError):
    """A voice cannot be loaded, or cannot speak a text."""

    exit_code = 3


class NotEnoughMemoryError(DuplexAsrError):
    """What is configured needs more memory than there is, or than it may use."""

    exit_code = 3


class OutOfBlocksError(DuplexAsrError):
    """No KV memory is left for one request; the requests that have theirs go on."""


class GpuLostError(DuplexAsrError):
    """The GPU context is poisoned: every later call of this process fails, so it must end."""


class AudioError(DuplexAsrError):
    """A sound device or a recording cannot be used."""

    exit_code = 4


class ServiceError(DuplexAsrError):
    """A socket or the runtime folder cannot be used."""

    exit_code = 5


class RequestError(ServiceError):
    """The daemon answered a request with an error; `code` is for programs, the text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
