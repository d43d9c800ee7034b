"""The command line: `greenproxy [run] [CONFIG]` and `greenproxy check CONFIG`.

Owns:       words, help texts, exit codes.
Leaves to:  config/load.py (what a configuration may say), master/master.py (the run).

Exit codes: 0 stopped as told, or the configuration is good; 1 the machine does not let us start (address
in use, missing right, held pid file); 2 wrong usage, or a bad configuration, every problem on its own
line; 3 a worker, helper or hosted application cannot start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from greenproxy import __version__
from greenproxy.config.load import load_config
from greenproxy.config.schema import Config
from greenproxy.errors import ConfigError, StartError, WorkerBootError
from greenproxy.master.master import Master

OK, CANNOT_START, BAD_CONFIGURATION, BOOT_FAILED = 0, 1, 2, WorkerBootError.EXIT_CODE
DEMO = Path(__file__).parents[1] / "conf" / "demo.yaml"

_WORDS = ("run", "check")
_FLAGS = ("-h", "--help", "--version")
_EPILOG = """\
examples:
  greenproxy shop.yaml         serve what shop.yaml says, in the foreground
  greenproxy check shop.yaml   say what is wrong with it

exit codes:
  0  stopped as told, or the configuration is good
  1  cannot start: address in use, missing right, pid file held by another instance
  2  wrong usage or bad configuration, one problem a line as file:line:col: path: what is wrong
  3  a worker, helper or hosted application cannot start

signals to the master:
  TERM       graceful stop: requests in flight get server.graceful_timeout; a second TERM is quick
  INT, QUIT  quick stop
  USR1       reopen log files
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    arguments = _parser().parse_args(_with_word(sys.argv[1:] if argv is None else list(argv)))
    try:
        config = load_config(str(arguments.config))
        if arguments.word == "check":
            print(f"{arguments.config}: OK ({summary(config)})")
        else:
            Master(config).run()
    except ConfigError as exc:
        for problem in exc.problems:
            print(problem, file=sys.stderr)
        return BAD_CONFIGURATION
    except StartError as exc:
        print(f"greenproxy: {exc.detail}", file=sys.stderr)
        return CANNOT_START
    except WorkerBootError as exc:
        print(f"greenproxy: {exc.detail}", file=sys.stderr)
        return BOOT_FAILED
    return OK


def summary(config: Config) -> str:
    """Say in a few words what a configuration holds."""
    counts = (
        (len(config.listeners), "listener"),
        (len(config.upstreams), "upstream"),
        (len(config.routes), "route"),
        (config.server.workers, "worker"),
    )
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def _with_word(arguments: list[str]) -> list[str]:
    """Let `run` be left out: `greenproxy conf/prod.yaml`, or nothing at all."""
    first = arguments[0] if arguments else ""
    # What stands before a second argument is meant as a word; argparse names the known ones if it is misspelt.
    has_word = first in (*_WORDS, *_FLAGS) or (len(arguments) > 1 and not first.startswith("-"))
    return arguments if has_word else ["run", *arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="greenproxy",
        description="A reverse proxy and load balancer that also hosts WSGI applications.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"greenproxy {__version__}")
    words = parser.add_subparsers(dest="word", metavar="WORD", required=True)
    run = words.add_parser("run", help="serve what CONFIG says (the default; may be left out)")
    run.add_argument("config", metavar="CONFIG", nargs="?", type=Path, default=DEMO, help="default: conf/demo.yaml")
    check = words.add_parser("check", help="read CONFIG, print OK or every problem, and run nothing")
    check.add_argument("config", metavar="CONFIG", type=Path, help="a YAML or JSON file")
    return parser
