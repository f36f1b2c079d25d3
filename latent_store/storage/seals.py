"""Checksums over JSON: what a store says about itself cannot change unnoticed.

A record (a plan, a receipt) carries the crc32c of the rest of itself. The attributes of a group
carry a `seal`: which of them were written, and the crc32c over those. What is added later, by a
newer minor version or by a user, stands outside of the seal and is ignored.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

from latent_store.errors import IntegrityError

CRC32C = "crc32c"
SEAL = "seal"


def json_crc32c(value: Any) -> int:
    """Returns the crc32c of a JSON value, however it was laid out.

    It is taken over the form with sorted keys, no blanks and escaped non-ASCII characters.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return int(google_crc32c.value(text.encode()))


def seal_record(record: Mapping[str, Any]) -> bytes:
    """Returns a record as JSON that holds its own crc32c."""
    # Through JSON once: what is sealed is what a reader will find.
    plain = json.loads(json.dumps(record))
    return json.dumps({CRC32C: json_crc32c(plain), **plain}, indent=1).encode()


def read_record(data: bytes, what: str, remedy: str) -> dict[str, Any]:
    """Reads `seal_record`.

    Raises:
        IntegrityError: It is no JSON object, or does not have its crc32c.
    """
    try:
        record: dict[str, Any] = json.loads(data)
        expected = record.pop(CRC32C)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"{what} is unreadable ({type(error).__name__}: {error}); {remedy}"
        ) from error
    if json_crc32c(record) != expected:
        raise IntegrityError(
            f"{what} does not have its crc32c {expected}: it was altered; {remedy}"
        )
    return record


def known_fields(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a record that a dataclass knows; newer minor versions add to records."""
    names = {f.name for f in dataclasses.fields(kind)}
    return {name: value for name, value in record.items() if name in names}


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
