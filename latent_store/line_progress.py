"""Progress where nobody watches: lines for a log in place of a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Self


class LineProgress:
    """What of a tqdm bar the commands use, as lines for logs: one a minute, none before the first.

    Args:
        iterable: What it counts, if it is iterated.
        total: Of all there is to do; None where nobody knows.
        initial: What was done before.
        desc: What is done.
        unit: What is counted.
        disable: Says nothing.
        leave: Of bars alone: whether one stays once it is done.
        seconds: Between lines.

    Attributes:
        n: What is done, `initial` included.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: int | None = None,
        initial: int = 0,
        desc: str = "",
        unit: str = "it",
        disable: bool | None = False,
        leave: bool = True,
        seconds: float = 60,
    ) -> None:
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        self.iterable, self.total, self.desc, self.unit = iterable, total, desc, unit
        self.n = self.initial = initial
        self.disable, self.seconds, self.shown = bool(disable), seconds, ""
        self._start = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()

    def update(self, count: float = 1) -> None:
        """Counts, and says how far it is where a minute has passed."""
        self.n += int(count)
        now = time.monotonic()
        if not self.disable and count and now - self._told >= self.seconds:
            self._told = now
            print(self.line(now - self._start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """Returns how far it is after so many seconds: `12 of 40 steps, 3.1 s a step, ...`."""
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.n}{of} {self.unit}s"]
        done = self.n - self.initial
        if done and seconds:
            slow = done < seconds
            rate = seconds / done if slow else done / seconds
            parts.append(
                f"{rate:.3g} " + (f"s a {self.unit}" if slow else f"{self.unit}s a second")
            )
        parts += [self.shown] if self.shown else []
        if done and self.total is not None and self.n < self.total:
            parts.append(f"{in_words((self.total - self.n) * seconds / done)} left")
        return (f"{self.desc}: " if self.desc else "") + ", ".join(parts)

    def set_postfix(self, values: Mapping[str, Any], *, refresh: bool = True) -> None:
        """Keeps numbers to say beside."""
        self.set_postfix_str(", ".join(f"{name} {value}" for name, value in values.items()))

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:  # noqa: FBT001, FBT002
        """Keeps words to say beside."""
        self.shown = text

    def close(self) -> None:
        """Says nothing: whoever is done says so."""


def in_words(seconds: float) -> str:
    """Returns a time in words, e.g. `40 s`, `12 min`, `3.4 h` or `10.6 days`."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= size * (2 if size == 86400 else 1.5):
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"
