"""Commands as the demo runs them: shown as one would type them, timed, checked."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence

from latent_store.errors import JobFailedError


def run_shown(main: Callable[[Sequence[str]], int], command: str, *arguments: object) -> None:
    """Runs a command in this process, shown as it would be typed.

    Args:
        main: The command's.
        command: Its name, and flags if one likes.
        arguments: Further words.

    Raises:
        JobFailedError: It ended with another status than 0.
    """
    words = [*command.split(), *map(str, arguments)]
    say(f"\n$ {shlex.join(words)}")
    start = time.monotonic()
    status = main(words[1:])
    say(f"({time.monotonic() - start:.0f} s)")
    if status:
        raise JobFailedError(f"{words[0]} ended with status {status}; its error is above")


def say(text: str) -> None:
    """Prints a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
