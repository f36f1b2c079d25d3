"""The flags of the guide's page on where jobs run, for tests to run them as they stand there."""

import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/running.md"


def runner_flags(where: str, **instead: str) -> tuple[str, ...]:
    """Returns what is added to a job's command to run it somewhere.

    Args:
        where: The first cell of its row.
        instead: What else stands for a word of capitals in it, such as HOST:8786, by that word's
            name: `HOST` or `PORT` alone.
    """
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {where} |"))
    (flags,) = (part for part in row.split("`")[1::2] if part.startswith("--"))
    words = shlex.split(flags)
    for name, value in instead.items():
        words = [value if name in word else word for word in words]
    return tuple(words)
