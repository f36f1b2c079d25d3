"""The common part of every command of the project: parser, progress bar, exit status."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import itertools
import json
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from latent_store.errors import JobFailedError, LatentStoreError, public_text, public_url
from latent_store.line_progress import LineProgress

DISTRIBUTION = "latent-store"
BAD_USAGE = 2
JOB_FAILED = 1
INTERRUPTED = 130
LONGEST_ERROR = 2000
"""Characters that are printed of an error."""
_SLIP = re.compile(r"[a-z][a-z0-9+.-]+:/|(s3a?|gc?s|https?):", re.IGNORECASE)
"""Begins what was meant as a URL."""
_STORAGE_FLAG = "--storage_options"
STORAGE_OPTIONS = "LATENT_STORE_STORAGE_OPTIONS"
"""Variable with what `--storage_options` says; processes that this one starts have it too."""
STORAGE_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs"}
"""What fails in them lies in the network, an address or a permission, and is no bug here."""
_TRAINING_LIBRARIES = {
    "bjontegaard", "matplotlib", "pycocotools", "safetensors", "tensorboard", "torchvision",
}  # fmt: skip
_STORAGE_EXAMPLE = """'{"endpoint_url": "http://HOST:9000"}'"""
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)=([^`]*)`")
_UNKNOWN, _MISSING = "unrecognized arguments", "the following arguments are required"
"""How argparse begins to say so."""
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
"""What `--storage_options` is given, which may hold a secret, behind a slip of that name."""
_ALIKE = 0.75
"""How like a flag a word must be, 0 to 1, to be taken for a slip; `--deep` is .67 like `--help`."""
_REFUSED_VALUE = re.compile(r"^argument (--\w+): (?=must )")

MOST_INTEGER = 2**31 - 1
"""Of a number of things; beyond it libraries overflow."""
MOST_SEED = 2**32 - 1
"""NumPy's and torch's generators take every seed up to it."""
MOST_THREADS = 1024
"""Of workers too: systems refuse more, some libraries by ending the process."""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, 0 and `--no-...` too, and keeps the line breaks of descriptions and examples.

    What a flag without a value does not do stays unsaid, and so does an empty list.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, help = action.default, action.help or ""
        pair = isinstance(action, argparse.BooleanOptionalAction)
        if default is None or default == [] or action.required or "(default: " in help:
            return help
        if default is False and not pair:
            return help
        if pair:
            return f"{help} (default: {'yes' if default else 'no'})"
        if isinstance(default, list | tuple):
            return f"{help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as every error of a command is.

    An empty text is refused: it is a shell's variable that was not set, and as a path it would be
    the folder that the command was started in.
    """

    completes: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        # Of subcommands too, whose parsers are made without them.
        options.setdefault("formatter_class", _HelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)
        self._words: list[str] = []
        self.register("type", None, _word)  # Of flags without `type=`.
        self.register("type", str, _word)
        self.register("type", Path, _local_path)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remembers the words, for `error`; completes them where a shell asks for that."""
        if "_ARGCOMPLETE" in os.environ and not _Parser.completes:
            _Parser.completes = True  # It parses, too.
            with contextlib.suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(self)
        self._words = list(sys.argv[1:] if args is None else args)
        if _STORAGE_FLAG in self._option_string_actions:
            self._take_storage_options()
        return super().parse_known_args(args, namespace)

    def _take_storage_options(self) -> None:
        """Keeps them before any flag is read: the file of one may lie where they say."""
        for word, behind in itertools.zip_longest(self._words, self._words[1:]):
            flag, given, value = word.partition("=")
            if flag == _STORAGE_FLAG and (given or behind is not None):
                _keep_storage_options(self, value if given else str(behind))

    def error(self, message: str) -> NoReturn:
        if message.startswith(_UNKNOWN):
            message = _OBJECT.sub("{...}", message)
        line = " ".join(_REFUSED_VALUE.sub(r"\1 ", public_text(message)).split())
        self.exit(BAD_USAGE, f"{self.prog}: error: {line}{self._meant(message)}; see --help\n")

    def _meant(self, message: str) -> str:
        """Returns which flags the words that are none may have meant; "" where there are none.

        Where a flag is missing, a word that is none of this parser's may be one of Beam's: only one
        that is like what is missing is told.
        """
        rule, _, named = message.partition(": ")
        if rule == _UNKNOWN:
            words, flags = named.split(), self._flags_of_action()
        elif rule == _MISSING:
            words, flags = self._words, named.split(", ")
        else:
            return ""
        text = ""
        for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
            if flag in self._option_string_actions:
                continue
            if flag in flags:
                text += f"; {flag} belongs behind the action"
            elif close := alike(flag, flags):
                text += f"; {flag} is no flag, {close} is"
        return text

    def _flags_of_action(self) -> Iterable[str]:
        """Returns the flags of the subcommand that was named; its own without subcommands."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = (action.choices[word] for word in self._words if word in action.choices)
                return next(chosen, self)._option_string_actions
        return self._option_string_actions


def flags_of(parser: argparse.ArgumentParser) -> Collection[str]:
    """Returns a parser's flags, each as it is written: `--store`."""
    return parser._option_string_actions.keys()


def alike(flag: str, flags: Iterable[str]) -> str | None:
    """Returns which of some flags one that is none may have meant, None if it is like none."""
    return next(iter(difflib.get_close_matches(flag, list(flags), n=1, cutoff=_ALIKE)), None)


class _Version(argparse.Action):
    """Prints the version of the distribution, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"{parser.prog} {version()}")
        parser.exit()


def version() -> str:
    """Returns the version of the distribution, in words where none is installed."""
    from importlib import metadata

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def _word(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _local_path(text: str) -> Path:
    if "://" in text or _SLIP.match(text):
        # As a path it would be a folder of this machine that is called s3:.
        raise argparse.ArgumentTypeError(
            f"must be a path of this machine, got {public_url(text)}; copy it with the store's own "
            "tool"
        )
    return Path(_word(text))


class _StorageOptions(argparse.Action):
    """Leaves alone what the parser has kept before it read any flag."""

    def __call__(self, *_: Any) -> None:
        pass


def _keep_storage_options(parser: argparse.ArgumentParser, text: str) -> None:
    """Keeps options of object stores for whatever this process and its children open."""
    try:
        known = isinstance(json.loads(text), dict)
    except ValueError:
        known = False
    if not known:
        # What was given may hold a secret.
        parser.error(f"{_STORAGE_FLAG} must be an object in JSON, e.g. {_STORAGE_EXAMPLE}")
    os.environ[STORAGE_OPTIONS] = text


@dataclass(frozen=True)
class Number:
    """The type of a flag that is a number of a range, for `add_argument(type=...)`.

    Attributes:
        kind: `int` or `float`.
        least: The least that is allowed.
        most: The most that is allowed; without one, integers end at `MOST_INTEGER`.
        above_least: Whether the least itself is refused.
    """

    kind: type[int | float]
    least: float = 0
    most: float | None = None
    above_least: bool = False

    def __call__(self, text: str) -> int | float:
        """Reads a value of the command line."""
        try:
            if "_" in text or not text.isascii():
                raise ValueError  # Python reads these as digits; whoever typed them may not.
            value = self.kind(text)
        except ValueError:
            noun = "a whole number" if self.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {noun}, got {text!r}") from None
        refusal = self.refusal(value)
        if refusal:
            raise argparse.ArgumentTypeError(refusal)
        return value

    def refusal(self, value: float) -> str:
        """Returns the rule that a value breaks, e.g. `must be 0 to 1, got 1.5`; "" for none."""
        most = self.most
        if most is None and self.kind is int and value > MOST_INTEGER:
            most = MOST_INTEGER
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be finite, got {value}"
        high_enough = value > self.least if self.above_least else value >= self.least
        if high_enough and (most is None or value <= most):
            return ""
        if self.above_least:
            rule = f"above {self.least:g}" + ("" if most is None else f", up to {most:.10g}")
        else:
            rule = f"{self.least:g} " + ("or more" if most is None else f"to {most:.10g}")
        return f"must be {rule}, got {value}"


def make_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of one command: `--snake_case` flags, `--version`, defaults in the help.

    Abbreviated flags are refused, because what the parser does not know may be meant for Beam.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    return parser


def add_storage_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--storage_options`, for every URL that a command opens."""
    parser.add_argument(
        _STORAGE_FLAG,
        action=_StorageOptions,
        default=argparse.SUPPRESS,
        metavar="JSON",
        help="options of object stores, as s3fs and gcsfs have them (endpoint_url, anon, profile, "
        f"project, ...), e.g. {_STORAGE_EXAMPLE}; also the variable {STORAGE_OPTIONS}",
    )


def run_command(prog: str, command: Callable[[], int]) -> int:
    """Runs a command and turns expected errors into one line on stderr and an exit status.

    Returns:
        The command's own status; 2 for bad input, 1 for a job or an operating system call that
        failed, there or in a library for object stores, 130 after an interrupt. Anything else is
        a bug and keeps its traceback.
    """
    try:
        return command()
    except JobFailedError as error:
        return _fail(prog, str(error), JOB_FAILED)
    except LatentStoreError as error:
        return _fail(prog, str(error), BAD_USAGE)
    except ModuleNotFoundError as error:
        extra = _extra_of(prog, str(error.name).partition(".")[0])
        if extra is None:
            raise
        line = f"{error.name} is not installed: pip install '{DISTRIBUTION}[{extra}]'"
        return _fail(prog, line, BAD_USAGE)
    except OSError as error:
        return _fail(prog, describe_os_error(error), JOB_FAILED)
    except KeyboardInterrupt as error:
        told = str(error) or "interrupted; run the same command again to go on"
        return _fail(prog, told, INTERRUPTED)
    except Exception as error:
        if not is_of_storage(error):
            raise
        return _fail(prog, f"{type(error).__name__}: {error}", JOB_FAILED)


def is_of_storage(error: Exception) -> bool:
    """Tells whether an error is a kind of its own of a client of object stores."""
    return type(error).__module__.partition(".")[0] in STORAGE_LIBRARIES


def _extra_of(prog: str, module: str) -> str | None:
    """Returns the extra that brings what a command lacks; None: the package ships it, a bug."""
    if module in ("apache_beam", "grpc"):
        return "beam"
    if module in ("dask", "distributed", "xarray"):
        return "xarray"
    if module in ("PIL", "compressai", "torch"):
        return "codec" if prog == DISTRIBUTION else "train"
    return "train" if module in _TRAINING_LIBRARIES else None


def describe_os_error(error: OSError) -> str:
    """Returns one line for an operating system error, with what to do about the common ones."""
    remedies = {
        errno.ENOSPC: "free some space and run the same command again; nothing half-written counts",
        errno.EFBIG: "raise the limit on file sizes and run the same command again",
        errno.EDQUOT: "raise the quota and run the same command again",
        errno.EACCES: "check the permissions of that path",
        errno.EPERM: "check the permissions of that path",
        errno.EROFS: "choose a place that can be written",
    }
    text = error.strerror or str(error) or type(error).__name__
    where = f" ({error.filename})" if error.filename else ""
    remedy = remedies.get(error.errno or 0)
    return f"{text}{where}" + (f"; {remedy}" if remedy else "")


def spell_flags(message: str) -> str:
    """Spells the arguments that a message of the library names as flags, which are called alike.

    `codec=` between backticks becomes --codec, `keep=16` becomes --keep 16.
    """
    return _ARGUMENT.sub(lambda found: f"--{found[1]} {found[2]}".rstrip(), message)


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """Returns a tqdm bar on stderr; where stderr is no terminal, a line a minute in its place."""
    if not sys.stderr.isatty():
        return LineProgress(iterable, **options)
    from tqdm import tqdm

    return tqdm(iterable, **({"file": sys.stderr, "dynamic_ncols": True} | options))


@contextlib.contextmanager
def told_late(line: str, seconds: float) -> Iterator[None]:
    """Prints a line on stderr if a block lasts longer than so many seconds."""
    timer = threading.Timer(seconds, print, (line,), {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _fail(prog: str, message: str, status: int) -> int:
    line = " ".join(public_text(spell_flags(message)).split())
    # Names of files may hold what a terminal obeys, or nobody sees.
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) > LONGEST_ERROR:
        # What a file says, most likely; the remedy stands at the end.
        line = f"{line[: LONGEST_ERROR // 2]} ... {line[-LONGEST_ERROR // 2 :]}"
    print(f"{prog}: error: {line}", file=sys.stderr)
    return status
