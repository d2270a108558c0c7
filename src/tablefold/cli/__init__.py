"""The `tablefold` command: one file per verb.

A verb's file has `add_arguments(parser)`, `run(args)` and a docstring whose first line is its help; it imports only
the standard library at its top, so that `tablefold --help` answers at once. Whatever the user got wrong ends in one
line on stderr and exit code 2; set TABLEFOLD_DEBUG=1 to see the traceback behind such a line.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, Protocol, cast

from tablefold.extras import require_data
from tablefold.quoting import one_line

VERBS = (
    *("generate", "prepare", "describe", "methods", "plan", "inspect", "theory", "fold"),
    *("train", "evaluate", "predict", "recommend", "serve", "export", "embed", "compare", "study", "demo", "warmup"),
)

LONGEST_LINE = 1000
"""Letters of an error: what a file or a user wrote may be of any length, and hold what moves a terminal's cursor."""

EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE


class Verb(Protocol):
    """What the module of a verb offers."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's options."""

    def run(self, args: argparse.Namespace) -> None:
        """Do it; `ValueError` and `OSError` are for the user."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # a new option must not break a shortened old one
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one line, instead of the usage text."""
        self.exit(EXIT_WRONG_USE, f"{self.prog}: {one_line(message, LONGEST_LINE)} (see {self.prog} --help)\n")

    def named_by(self, arguments: Sequence[str]) -> Parser:
        """The parser of the verb, or of the verb's own verb, that `arguments` name."""
        parser = self
        for argument in arguments:
            actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
            if not actions or argument.startswith("-"):
                break
            parser = actions[0].choices.get(argument, parser)
        return parser

    def refuse_unknown_options(self, arguments: Sequence[str]) -> None:
        """Report the first --option nobody has declared, with the nearest there is, before anything else."""
        known = self._option_string_actions
        options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
        for option in options:
            if option not in known and option != "--":
                near = get_close_matches(option, known, n=1)
                self.error(f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's); gives the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # torch's OpenMP threads wait by spinning; when anything else wants a core, a step then takes 60 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _mend_streams()
    try:
        verb, args, parser = _parse(argv)
    except SystemExit as request:  # --help, --version or a mistake, already reported
        return int(request.code or 0)
    if os.environ.get("TABLEFOLD_DEBUG"):
        verb.run(args)
        return 0
    return _guarded(verb, args, parser.prog)


def _mend_streams() -> None:
    """Let every text be printed, whatever the locale, and nothing be said where a stream is closed (`>&-`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as we run)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _parse(argv: list[str]) -> tuple[Verb, argparse.Namespace, Parser]:
    """The verb that `argv` names, its arguments and its parser; leaves by `SystemExit` where there is none."""
    parser = Parser(
        prog="tablefold", description="Fold the embedding tables of click models 10x to 10,000x.", add_help=True
    )
    parser.add_argument("--version", action="version", version=_version())
    choices = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    verbs = {name: _verb(name) for name in VERBS}
    for name, verb in verbs.items():
        description = verb.__doc__ or ""
        own = choices.add_parser(
            name,
            help=description.partition("\n")[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(own)
    if not argv:
        parser.print_help()
        parser.exit()
    if not argv[0].startswith("-") and argv[0] not in verbs:
        near = get_close_matches(argv[0], verbs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        parser.error(f"unknown verb {argv[0]!r}{hint}")
    named = parser.named_by(argv)
    named.refuse_unknown_options(argv)
    args, extras = parser.parse_known_args(argv)
    if extras:
        named.error(f"unexpected argument {extras[0]!r}")
    return verbs[args.verb], args, named


def _guarded(verb: Verb, args: argparse.Namespace, prog: str) -> int:
    """Run the verb; every error that is the user's becomes one line and an exit code."""
    before = signal.signal(signal.SIGTERM, _terminate)  # so that temporary folders are removed
    try:
        verb.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _report(prog, "interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report(prog, f"{where}{error.strerror or error}", EXIT_WRONG_USE)
    except ValueError as error:
        return _report(prog, str(error), EXIT_WRONG_USE)
    except ModuleNotFoundError as error:
        return _report_missing(prog, error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _report(prog, "out of memory: fold further, lower --dim or --batch-size", EXIT_WRONG_USE)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _report(prog: str, message: str, code: int) -> int:
    print(f"{prog}: {one_line(' '.join(message.split()), LONGEST_LINE)}", file=sys.stderr)
    return code


def _report_missing(prog: str, error: ModuleNotFoundError) -> int:
    """Name the extra that is not installed; anything else that is missing is a fault of ours."""
    try:
        require_data()
    except ValueError as missing:
        return _report(prog, str(missing), EXIT_WRONG_USE)
    raise error


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's own error, or torch's: a `RuntimeError` that says so on the CPU, `OutOfMemoryError` on CUDA."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _verb(name: str) -> Verb:
    return cast(Verb, importlib.import_module(f"tablefold.cli.{name}"))


def _version() -> str:
    from importlib.metadata import version

    return version("tablefold")
