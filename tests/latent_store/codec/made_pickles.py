"""Small files of `torch.save`'s formats that would take a reader without an end."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable

import torch


def saved(content: object, **options: bool) -> bytes:
    """Returns the file that torch writes of a value."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def archived(pickled: bytes) -> bytes:
    """Returns a checkpoint whose values are a pickle."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({}))) as plain,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in plain.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else plain.read(name))
    return file.getvalue()


def in_old_format(pickled: bytes, place: int) -> bytes:
    """Returns a checkpoint of the old format, of whose five pickles one is another."""
    data = saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False)
    file, ends = io.BytesIO(data), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    return data[: ends[place]] + pickled + data[ends[place + 1] :]


def _put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def _get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


def doubled(levels: int) -> bytes:
    """Returns the pickle of a dict with one key: a tuple of the same twice, that many times."""
    twice = (_get(n) + b"\x86" + _put(n + 1) for n in range(levels))
    return b"\x80\x02})" + _put(0) + b"".join(twice) + b"K\x01s."


def filled_later(levels: int) -> bytes:
    """Returns the pickle of lists of the same twice, which are empty when they are put in."""
    empty = b"".join(b"]" + _put(n) for n in range(levels + 1))
    pairs = (_get(n) + b"(" + _get(n - 1) * 2 + b"e" for n in range(levels, 0, -1))
    return b"\x80\x02" + empty + b"".join(pairs) + b"."


ENDLESS: dict[str, Callable[[], bytes]] = {
    "a key of tuples": lambda: archived(doubled(60)),
    "a key of very many tuples": lambda: archived(doubled(20_000)),
    "a key that is very deep": lambda: archived(b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s."),
    "lists that are filled later": lambda: archived(filled_later(60)),
    "one text many times": lambda: saved(["x" * 10**6] * 10_000),
    "one tensor many times": lambda: saved({"state": [torch.zeros(10**5)] * 10_000}),
    "a tensor of one number": lambda: saved({"state": torch.zeros(1).expand(10**12)}),
    **{
        f"the old format's pickle {n}": lambda n=n: in_old_format(doubled(60), n)  # type: ignore[misc]
        for n in range(5)
    },
}
"""Files of at most a few megabytes that stand for much more."""
