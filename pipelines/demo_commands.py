"""Commands as the demo runs them: shown as one would type them, timed, checked."""

from __future__ import annotations

import shlex
import sys
import time

from latent_store.errors import JobFailedError
from pipelines import encode, frequency, generate_scenes, reorder, train_teacher
from training import detect, evaluate, segment, train

COMMANDS = {
    "generate-scenes": generate_scenes.main,
    "train-teacher": train_teacher.main,
    "encode-to-store": encode.main,
    "train-from-store": train.main,
    "channel-frequency": frequency.main,
    "reorder-latents": reorder.main,
    "evaluate-from-store": evaluate.main,
    "segment": segment.main,
    "detect": detect.main,
}


def run_shown(command: str, **flags: object) -> None:
    """Runs a command in this process, shown as it would be typed.

    Args:
        command: Its name, and flags if one likes.
        flags: Further flags, by name; a tuple is several values of one.

    Raises:
        JobFailedError: It ended with another status than 0.
    """
    words = command.split()
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    say(f"\n$ {shlex.join(words)}")
    start = time.monotonic()
    status = COMMANDS[words[0]](words[1:])
    say(f"({time.monotonic() - start:.0f} s)")
    if status:
        raise JobFailedError(f"{words[0]} ended with status {status}; its error is above")


def say(text: str) -> None:
    """Prints a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
