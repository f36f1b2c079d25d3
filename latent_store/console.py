"""The common part of every command of the project: parser, progress bar, exit status."""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from latent_store.errors import JobFailedError, LatentStoreError

BAD_USAGE = 2
JOB_FAILED = 1
INTERRUPTED = 130
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)=([^`]*)`")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of descriptions and examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or action.required:
            return action.help
        return super()._get_help_string(action)


def make_parser(prog: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of one command: `--snake_case` flags, defaults shown in the help.

    Abbreviated flags are refused, because what the parser does not know may be meant for Beam.
    """
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


def run_command(prog: str, command: Callable[[], int]) -> int:
    """Runs a command and turns expected errors into one line on stderr and an exit status.

    Args:
        prog: The command's name, which starts the error line.
        command: Does the work and returns the exit status of success.

    Returns:
        The command's own status; 2 for bad input, 1 for a job or an operating system call that
        failed, 130 after an interrupt. Anything else is a bug and keeps its traceback.
    """
    try:
        return command()
    except JobFailedError as error:
        return _fail(prog, str(error), JOB_FAILED)
    except LatentStoreError as error:
        return _fail(prog, str(error), BAD_USAGE)
    except OSError as error:
        return _fail(prog, describe_os_error(error), JOB_FAILED)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted; run the same command again to go on", INTERRUPTED)


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
    """Returns a tqdm bar on stderr that stays silent where stderr is not a terminal."""
    from tqdm import tqdm

    options.setdefault("disable", None)
    options.setdefault("file", sys.stderr)
    options.setdefault("dynamic_ncols", True)
    return tqdm(iterable, **options)


def _fail(prog: str, message: str, status: int) -> int:
    line = " ".join(spell_flags(message).split())
    print(f"{prog}: error: {line}", file=sys.stderr)
    return status
