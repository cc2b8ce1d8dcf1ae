"""`duplex-asr doctor`: options in, findings and an exit code out."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import duplex_asr
from duplex_asr.errors import ConfigError

if TYPE_CHECKING:
    from duplex_asr.doctor.examination import Examination

EXIT_FAILED = 1
EPILOG = """It looks and changes nothing, and works while the daemon runs: then the daemon is
asked how loud its microphone is. Without --config it reads the file of the installed service.
Whose rights count: those of the running daemon's user, else of the installed service's, else of
whoever runs it.

exit codes:
  0  nothing failed; there may be warnings
  1  something failed
  2  wrong option
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument("--engine", metavar="DIR", help="engine folder [engine.path]")
    parser.add_argument("--source", help="what the daemon will hear [audio.source]")
    parser.add_argument("--runtime-dir", metavar="DIR", help="folder of the sockets")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument(
        "--no-devices", action="store_true", help="open neither the microphone nor the speaker"
    )
    parser.add_argument("--tone", action="store_true", help="play a short tone on the speaker")


def doctor(options: argparse.Namespace) -> int:
    """`duplex-asr doctor`."""
    from duplex_asr.doctor.checks import Examiner
    from duplex_asr.doctor.report import as_lines, as_object, summary

    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns
    examiner = Examiner()
    findings = []
    try:
        for finding in examiner.findings(lambda: examination_of(options)):
            findings.append(finding)
            if not options.json:
                print(as_lines(finding, width, is_coloured), flush=True)
    except KeyboardInterrupt:
        leave(128 + signal.SIGINT)
    if options.json:
        print(json.dumps(as_object(findings, duplex_asr.__version__), ensure_ascii=False))
    else:
        print(summary(findings))
    exit_code = EXIT_FAILED if any(each.level == "failed" for each in findings) else 0
    if examiner.has_stuck_checks:
        leave(exit_code)
    return exit_code


def examination_of(options: argparse.Namespace) -> Examination:
    """What is to be examined; a configuration that is wrong is a finding like any other."""
    from duplex_asr.config import Config, load_config
    from duplex_asr.doctor.examination import examine, find_unit
    from duplex_asr.doctor.host import Host

    overrides = {
        section: {key: value}
        for section, key, value in (
            ("engine", "path", options.engine),
            ("audio", "source", options.source),
            ("service", "runtime_dir", options.runtime_dir),
        )
        if value is not None
    }
    host, problem = Host(), ""
    unit = find_unit(host)
    path = options.config or (Path(unit.config) if unit is not None else None)
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        config, problem = Config(), str(error)
    return examine(
        host,
        config,
        config_path=str(path or ""),
        config_problem=problem,
        opens_devices=not options.no_devices,
        plays_tone=options.tone,
    )


def leave(exit_code: int) -> NoReturn:
    """End without waiting for a check that hangs."""
    sys.stdout.flush()
    os._exit(exit_code)
