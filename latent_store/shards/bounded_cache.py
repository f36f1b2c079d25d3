"""A cache with a budget in bytes, which several threads share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Keeps what was used last, as far as it fits.

    Args:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._held: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Value | None:
        """Returns what is kept, if it still is."""
        with self._lock:
            if key not in self._held:
                return None
            self._held.move_to_end(key)
            return self._held[key][0]

    def put(self, key: str, value: Value, size: int) -> None:
        """Keeps a value of so many bytes; what was not used for longest makes room for it."""
        with self._lock:
            self._used += size - self._held.pop(key, (None, 0))[1]
            self._held[key] = value, size
            while self._used > self._limit:
                self._used -= self._held.popitem(last=False)[1][1]
