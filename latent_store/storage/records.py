"""Records out of files as typed objects: the one place where JSON that somebody wrote is believed.

A checksum says that a record is the one that was written, its types that a job of this package can
have written it. Both are settled here, before anything is made of it, and whatever is wrong becomes
one error. Fields that a type lacks are ignored: newer minor versions of the format add to records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from latent_store.errors import IntegrityError
from latent_store.storage.seals import CRC32C, has_crc32c, json_crc32c

Typed = TypeVar("Typed")
_PLAIN = "^[^\ud800-\udfff]*$"
Count = Annotated[int, Meta(ge=0, lt=2**62)]
"""A number of rows, bytes and the like, with room to be added to."""
Crc32c = Annotated[int, Meta(ge=0, lt=2**32)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Text = Annotated[str, Meta(pattern=_PLAIN)]
"""What UTF-8 and tables can hold: no lone surrogates."""
Name = Annotated[str, Meta(pattern=_PLAIN, max_length=255)]
_LONGEST = 200
"""Characters of an error that quotes a record."""


class Hex(bytes):
    """Bytes that stand in a record as hexadecimal digits."""


def seal_record(record: Mapping[str, Any]) -> bytes:
    """Returns a record as JSON that holds its own crc32c."""
    # Through JSON once: what is sealed is what a reader will find.
    plain = json.loads(json.dumps(record))
    sealed = {CRC32C: json_crc32c(plain), **plain}
    try:
        # As Python lays it out, in a hundredth of the time.
        return msgspec.json.format(json.dumps(sealed).encode(), indent=1)
    except msgspec.DecodeError:  # It has no word for what is not finite.
        return json.dumps(sealed, indent=1).encode()


def read_record(kind: type[Typed], data: bytes, what: str, remedy: str) -> Typed:
    """Reads `seal_record`.

    Raises:
        IntegrityError: It is no JSON object, does not have its crc32c, or is no such record.
    """
    return typed(kind, unsealed(data, what, remedy), what, remedy)


def unsealed(data: bytes, what: str, remedy: str) -> dict[str, Any]:
    """Returns the JSON object that `seal_record` sealed, whatever kind of record it is.

    Raises:
        IntegrityError: It is none, or does not have its crc32c.
    """
    record = parse(data, what, remedy)
    expected = record.pop(CRC32C, None)
    if not has_crc32c(data, record, expected):
        raise IntegrityError(
            f"{what} does not have its crc32c {expected}: it was altered; {remedy}"
        )
    return record


def parse(data: bytes, what: str, remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        IntegrityError: It is none.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unreadable(what, error, remedy) from error
    if not isinstance(record, dict):
        raise _unreadable(what, "it is no JSON object", remedy)
    return record


def typed(kind: type[Typed], value: Any, what: str, remedy: str) -> Typed:
    """Returns plain JSON as an object of `kind`, a dataclass whose annotations are its rules.

    Raises:
        IntegrityError: Names the first field that breaks its rule.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=_read_hex, str_keys=True)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise _unreadable(what, error, remedy) from error


def _read_hex(kind: type, value: Any) -> Any:
    if kind is not Hex:
        raise NotImplementedError(f"records hold no {kind}")
    return Hex(bytes.fromhex(value))


def _unreadable(what: str, error: object, remedy: str) -> IntegrityError:
    text = " ".join(str(error).replace("`", "").split())[:_LONGEST]
    return IntegrityError(f"{what} cannot be read ({text}); {remedy}")
