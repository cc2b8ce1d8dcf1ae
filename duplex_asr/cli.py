"""The command line: options in, one command run, an exit code out."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import duplex_asr
from duplex_asr import check_command, show_devices, transcribe_command
from duplex_asr.build_command import build
from duplex_asr.check_command import check_config, naming
from duplex_asr.doctor import command as doctor_command
from duplex_asr.errors import DuplexAsrError, GpuLostError
from duplex_asr.evaluation import command as eval_command

EXIT_CODES = """exit codes:
  0  done
  1  unexpected error, or the GPU refuses the process: start it again
  2  wrong option or configuration
  3  engine or checkpoint missing, damaged or built for something else
  4  sound device or recording cannot be used
  5  sockets or runtime folder taken, unreachable or not permitted
  141  the program that read the output went away
  130, 143  ended by Ctrl-C or SIGTERM (serve then ends with 0, and listen after Ctrl-C)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors become one line on stderr and their exit code."""
    # File names need not be UTF-8; what is not is printed as \udcff, which is also valid JSON.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    if command is not serve:  # the daemon handles its signals itself
        signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        return command(options)
    except DuplexAsrError as error:
        print(f"duplex-asr: {error}", file=sys.stderr)
        if isinstance(error, GpuLostError):
            sys.stdout.flush()
            os._exit(error.exit_code)  # what CUDA does at a normal exit may wait for a hung kernel
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _forget_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _forget_output()
        print(
            f"duplex-asr: {error.strerror or error}: see what the output goes to", file=sys.stderr
        )
        return 1


def _forget_output() -> None:
    """Let what is still to be written go nowhere: Python would fail on it once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # so that `finally` removes what is half-written


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="duplex-asr",
        description="Hears and speaks for programs on a Unix socket; nothing leaves this machine.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"duplex-asr {duplex_asr.__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_listen(commands)
    _add_say(commands)
    _add_stop(commands)
    _add_status(commands)
    _add_transcribe(commands)
    _add_timeline(commands)
    _add_build(commands)
    summary = "list microphones and speakers"
    show_devices.add_options(_add_command(commands, "devices", show_devices.devices, summary))
    summary = "check a configuration and its engine without opening a device"
    check_command.add_options(_add_command(commands, "check-config", check_config, summary))
    summary = "find what keeps it from working, and why"
    doctor_command.add_options(_add_command(commands, "doctor", doctor_command.doctor, summary))
    summary = "word errors of an engine on recordings with known texts"
    eval_command.add_options(_add_command(commands, "eval", eval_command.evaluate_command, summary))
    return parser


def _add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=function)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--engine", metavar="DIR", help="engine folder [engine.path]")
    parser.add_argument("--threads", type=int, metavar="N", help="[engine.threads]")


def _add_client_options(parser: argparse.ArgumentParser, json_help: str) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--runtime-dir", metavar="DIR", help="folder of the sockets")
    parser.add_argument("--json", action="store_true", help=json_help)


def _runtime_dir(options: argparse.Namespace) -> Path:
    """Where the daemon that these options mean has its sockets."""
    from duplex_asr.config import load_config
    from duplex_asr.service.runtime_dir import find_daemon_dir

    config = load_config(options.config, _overrides(options, runtime_dir="service.runtime_dir"))
    return find_daemon_dir(config.service.runtime_dir)


def _overrides(options: argparse.Namespace, **names: str) -> dict[str, dict[str, Any]]:
    """Options that were given, as section -> key -> value; names: option="section.key"."""
    overrides: dict[str, dict[str, Any]] = {}
    for option, target in names.items():
        value = getattr(options, option)
        if value is not None:
            section, key = target.split(".")
            overrides.setdefault(section, {})[key] = value
    return overrides


def _add_serve(commands: Any) -> None:
    parser = _add_command(commands, "serve", serve, "run the daemon")
    _add_config_options(parser)
    parser.add_argument(
        "--source", help="microphone, microphone:NAME, file:PATH or stdin: [audio.source]"
    )
    parser.add_argument("--runtime-dir", metavar="DIR", help="folder of both sockets")
    parser.add_argument(
        "--fast", action="store_false", default=None, dest="realtime",
        help="hear a file as fast as it can be transcribed",
    )  # fmt: skip
    parser.add_argument(
        "--wait-for-listener", action="store_true",
        help="start hearing when the first reader has connected to events.sock",
    )  # fmt: skip
    parser.add_argument("--exit-at-end", action="store_true", help="stop when the source has ended")
    parser.add_argument(
        "--wait-for-microphone", action="store_true", default=None,
        help="start without a microphone, too, and open it when it is there [audio]",
    )  # fmt: skip
    parser.add_argument(
        "--save-utterances", metavar="DIR",
        help="keep the sound of each utterance and its event there, within a cap [debug]",
    )  # fmt: skip
    parser.add_argument(
        "--save-session", metavar="DIR",
        help="record this run there, what is heard and what is said, within a cap [debug]",
    )  # fmt: skip
    parser.add_argument(
        "--verbose", action="store_const", const="debug", dest="log_level",
        help="log more [service.log_level]",
    )  # fmt: skip


def _add_listen(commands: Any) -> None:
    parser = _add_command(
        commands, "listen", listen,
        "show what the daemon hears: live on a terminal, JSON lines in a pipe",
    )  # fmt: skip
    _add_client_options(parser, json_help="JSON lines on a terminal, too")


def _add_say(commands: Any) -> None:
    parser = _add_command(commands, "say", say, "have the running daemon speak a text")
    parser.add_argument(
        "text", nargs="+", metavar="TEXT", help="what to say; - reads standard input as it comes"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the sound into this WAV file instead"
    )
    parser.add_argument(
        "--listen", action="store_true", help="show what is heard meanwhile; talk over it"
    )
    parser.add_argument("--id", help="name of the text, for `stop` and in events")
    parser.add_argument(
        "--priority", type=int, choices=range(10), metavar="0..9",
        help="higher goes before what waits (5)",
    )  # fmt: skip
    parser.add_argument(
        "--replace", action="store_true", help="end what plays, unless its priority is higher"
    )
    _add_client_options(parser, json_help="what happens as JSON lines")


def _add_stop(commands: Any) -> None:
    parser = _add_command(commands, "stop", stop, "end what the daemon is saying")
    parser.add_argument("id", nargs="?", metavar="ID", help="one text only")
    _add_client_options(parser, json_help="the names of what was ended, as one JSON object")


def _add_status(commands: Any) -> None:
    parser = _add_command(commands, "status", status, "show what the daemon is and has done")
    _add_client_options(parser, json_help="everything, as one JSON object")


def _add_transcribe(commands: Any) -> None:
    parser = _add_command(
        commands, "transcribe", transcribe, "transcribe recordings without a daemon"
    )
    _add_config_options(parser)
    transcribe_command.add_options(parser)


def _add_timeline(commands: Any) -> None:
    parser = _add_command(
        commands, "timeline", timeline, "draw what is heard in a recording, and how long it takes"
    )
    _add_config_options(parser)
    parser.add_argument("recording", type=Path, metavar="RECORDING")
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="picture to write, .svg or .png (default: RECORDING's name with .svg, in this folder)",
    )  # fmt: skip
    parser.add_argument(
        "--events", type=Path, metavar="FILE",
        help="draw a run over the recording that was saved with `listen --json`",
    )  # fmt: skip
    parser.add_argument("--from", type=float, default=0.0, dest="first_s", metavar="SECONDS")
    parser.add_argument("--to", type=float, dest="last_s", metavar="SECONDS")


def _add_build(commands: Any) -> None:
    parser = _add_command(commands, "build", build, "turn a Whisper checkpoint into an engine")
    parser.add_argument(
        "checkpoint", type=Path, help="OpenAI-format .pt file, or a folder of Hugging Face's"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="engine folder")
    parser.add_argument(
        "--backend", choices=["onnx", "tensorrt", "cuda"], default="onnx",
        help="tensorrt: graphs from which build_scripts/build_tensorrt.sh makes plans on the "
        "board; cuda: weights for the native engine, which needs no GPU to be made",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=["fp32", "int8", "fp16", "int4"],
        help="onnx: int8 (default: half the time), fp32 (openai-whisper's numbers) or int4 "
        "(least memory); tensorrt: fp16 (default) or fp32; cuda: fp16 (default), int8 or int4",
    )  # fmt: skip
    parser.add_argument("--name", help="model name that clients see (default: the file's)")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE",
        help="ranks in tiktoken format, for models that do not use OpenAI's",
    )  # fmt: skip
    parser.add_argument(
        "--keep-checkpoint", action="store_true",
        help="copy the checkpoint into the folder and read the weights from it (fp32 only)",
    )  # fmt: skip
    parser.add_argument(
        "--portable", action="store_true",
        help="onnx: for any processor, and not for this one as fast as it can",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="NAME=VALUE",
        help="default of a [transcription] threshold for this model; may be repeated",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an engine folder")


def transcribe(options: argparse.Namespace) -> int:
    """`duplex-asr transcribe`."""
    overrides = _overrides(
        options, engine="engine.path", threads="engine.threads",
        language="transcription.language", task="transcription.task",
        timestamps="transcription.timestamps", context="transcription.context",
    )  # fmt: skip
    return transcribe_command.transcribe(options, overrides)


def timeline(options: argparse.Namespace) -> int:
    """`duplex-asr timeline`."""
    from duplex_asr.config import load_config
    from duplex_asr.draw_timeline import draw_timeline

    overrides = _overrides(options, engine="engine.path", threads="engine.threads")
    config = load_config(options.config, overrides)
    output = options.output or Path(options.recording.name).with_suffix(".svg")
    draw_timeline(
        options.recording, output, config, options.events, options.first_s, options.last_s
    )
    print(output)
    return 0


def serve(options: argparse.Namespace) -> int:
    """`duplex-asr serve`: signals are caught before anything that takes time."""
    from duplex_asr.stop_signals import StopSignals

    with StopSignals() as signals:
        import logging

        from duplex_asr.config import load_config
        from duplex_asr.daemon import ServeOptions
        from duplex_asr.serve import serve as run_daemon
        from duplex_asr.service.listening import check_service

        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        overrides = _overrides(
            options, engine="engine.path", threads="engine.threads", source="audio.source",
            realtime="audio.realtime", runtime_dir="service.runtime_dir",
            log_level="service.log_level", save_utterances="debug.save_utterances_dir",
            save_session="debug.save_sessions_dir",
            wait_for_microphone="audio.wait_for_microphone",
        )  # fmt: skip
        config = load_config(options.config, overrides)
        serve_options = ServeOptions(
            exit_at_end=options.exit_at_end, wait_for_listener=options.wait_for_listener
        )
        with naming(options.config):
            check_service(config.service)
        return run_daemon(
            config, serve_options, signals, options.config,
            lambda: load_config(options.config, overrides),
        )  # fmt: skip


def listen(options: argparse.Namespace) -> int:
    """`duplex-asr listen`."""
    from duplex_asr.service.live_view import listen as show_events
    from duplex_asr.service.runtime_dir import EVENTS_SOCKET

    return show_events(_runtime_dir(options) / EVENTS_SOCKET, options.json)


def say(options: argparse.Namespace) -> int:
    """`duplex-asr say`."""
    from duplex_asr import say_command

    return say_command.say(options, _runtime_dir(options))


def stop(options: argparse.Namespace) -> int:
    """`duplex-asr stop`."""
    from duplex_asr import say_command

    return say_command.stop(options, _runtime_dir(options))


def status(options: argparse.Namespace) -> int:
    """`duplex-asr status`."""
    from duplex_asr.client import Control
    from duplex_asr.client.status_view import describe_status
    from duplex_asr.service.runtime_dir import CONTROL_SOCKET

    with Control(_runtime_dir(options) / CONTROL_SOCKET) as control:
        answer = control.status()
    print(json.dumps(answer, ensure_ascii=False) if options.json else describe_status(answer))
    return 0
