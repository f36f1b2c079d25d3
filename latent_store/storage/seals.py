"""Checksums over JSON: what a store says about itself cannot change unnoticed.

A record (a plan, a receipt; see `latent_store.storage.records`) carries the crc32c of the rest of
itself. The attributes of a group carry a `seal`: which of them were written, and the crc32c over
those. What is added later, by a newer minor version or by a user, stands outside and is ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import google_crc32c
import msgspec

from latent_store.errors import IntegrityError

CRC32C = "crc32c"
SEAL = "seal"


def json_crc32c(value: Any) -> int:
    """Returns the crc32c of a JSON value, however it was laid out.

    It is taken over the form with sorted keys, no blanks and escaped non-ASCII characters.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        return -1  # Nothing has it: no job writes values nested so deep.
    return int(google_crc32c.value(text.encode()))


def has_crc32c(data: bytes, value: Any, expected: Any) -> bool:
    """Tells whether a JSON value has that crc32c.

    It is taken in msgspec's form first, in a tenth of the time. That form is another one where
    floats or other characters than ASCII's stand; then the one that defines the crc32c decides. And
    it has no word for what is not finite.

    Args:
        data: The text that the value, and perhaps more, was parsed from.
        value: The value.
        expected: Its crc32c; or anything else, which it has not.
    """
    if b"NaN" not in data and b"Infinity" not in data:
        with contextlib.suppress(ValueError, RecursionError):
            if google_crc32c.value(msgspec.json.encode(value, order="sorted")) == expected:
                return True
    return bool(json_crc32c(value) == expected)


def floatless_crc32c(chunks: Iterable[Sequence[Any]]) -> int:
    """Returns the `json_crc32c` of the list that chunks make end to end, in a tenth of its time.

    Args:
        chunks: Lists without floats. Only one at a time is looked at.
    """
    crc32c = int(google_crc32c.value(b"["))
    between = b""
    for chunk in chunks:
        if chunk:
            crc32c = google_crc32c.extend(crc32c, between + _floatless(chunk)[1:-1])
            between = b","
    return int(google_crc32c.extend(crc32c, b"]"))


def _floatless(values: Sequence[Any]) -> bytes:
    text = msgspec.json.encode(values, order="sorted")
    if text.isascii() and b"\x7f" not in text:
        return text
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def sealed(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns attributes with a seal over all of them."""
    plain = json.loads(json.dumps({k: v for k, v in attrs.items() if k != SEAL}))
    return {**plain, SEAL: {"names": sorted(plain), CRC32C: json_crc32c(plain)}}


def require_sealed(attrs: Mapping[str, Any], what: str, remedy: str) -> None:
    """Refuses attributes that are not those that were sealed; others beside them are ignored.

    Raises:
        IntegrityError: With the remedy.
    """
    try:
        seal = attrs[SEAL]
        named = {name: attrs[name] for name in seal["names"]}
        intact = json_crc32c(named) == seal[CRC32C]
    except (KeyError, TypeError):
        intact = False
    if not intact:
        raise IntegrityError(f"the attributes of {what} are not those that were written; {remedy}")
