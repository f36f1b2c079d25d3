"""A file that holds one picture's streams and all that decoding them needs besides the codec.

Its layout stands in FORMAT.md, section 10.

The header names the codec with the five fields of its identity, the picture's original size, the
channels in the stream's order and the cuts. Under dynamic selection the channels stand in
`mask`, one bit each, since they are a part of what such a picture costs.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latent_store.codec.streams import Cuts
from latent_store.codec.symbols import check_channels, crc32c, require_crc32c
from latent_store.errors import (
    CapacityError,
    FormatVersionError,
    IntegrityError,
    LatentStoreError,
)
from latent_store.format.layout import coded_size
from latent_store.format.schema import HYPER_STRIDE, CodecSpec
from latent_store.storage import records
from latent_store.storage.local_files import write_atomically

MAGIC = b"\x89LSTREAM"
VERSION = 1
PREAMBLE = struct.Struct("<8sHII")
PARTS = ("mask", "z", "y")
PER_CUT = tuple(field.name for field in dataclasses.fields(Cuts))
SELECTIONS = ("all", "static", "dynamic", "scalable")
MAX_PIXELS = 1 << 28
"""Of a picture, as it is coded: a decoder needs about 60 bytes for each."""
MOST_NUMBER = (1 << 32) - 1
"""Of every number in a header."""
MOST_TEXT = 255
"""Characters of every text in a header."""


@dataclass(frozen=True, kw_only=True)
class StreamFile(Cuts):
    """One picture as streams; `y` may be cut at its `cuts`, of which the last one is all of it.

    Attributes:
        codec: The codec's name and identity.
        height: Of the picture, in pixels, before padding.
        width: As `height`.
        selection: `"all"` (natural order, CompressAI's string), `"static"` (a ranking's first
            channels), `"dynamic"` (the channels that a gate kept) or `"scalable"` (in order of
            importance, with cuts).
        channels: The channels in `y`, in its order.
        z: The hyper stream.
        y: The stream of ŷ; empty without channels.
        ranking_id: The ranking that the order comes from, where there is one.

    Raises:
        LatentStoreError: Values contradict each other.
    """

    codec: CodecSpec
    height: int
    width: int
    selection: str
    channels: tuple[int, ...]
    z: bytes
    y: bytes
    ranking_id: str | None = None

    def __post_init__(self) -> None:
        _require_types(self)
        check_channels(self.channels, self.codec.channels)
        coded_size(self.height, self.width)
        if self.selection not in SELECTIONS:
            raise LatentStoreError(
                f"selection is {self.selection!r}; choose one of {', '.join(SELECTIONS)}"
            )
        lengths = {len(getattr(self, name)) for name in PER_CUT}
        ends = (*self.cuts[-1:], *self.cut_bytes[-1:])
        whole = (len(self.channels), len(self.y)) if self.channels else ()
        rising = tuple(sorted(set(self.cuts))) == self.cuts and min(self.cuts, default=1) > 0
        rising = rising and list(self.cut_bytes) == sorted(self.cut_bytes)
        if ends != whole or not rising or len(lengths) > 1:
            raise LatentStoreError(
                f"cuts {self.cuts} at bytes {self.cut_bytes} do not end with the "
                f"{len(self.channels)} channels in {len(self.y)} bytes, or lack a checksum; make "
                "streams with pack_stream"
            )
        if self.selection == "dynamic" and list(self.channels) != sorted(self.channels):
            raise LatentStoreError(
                f"a dynamic selection's channels must rise, got {list(self.channels[:8])}..."
            )

    @property
    def mask(self) -> bytes:
        """The channel bitmap of a dynamic selection, little bits first; empty otherwise."""
        if self.selection != "dynamic":
            return b""
        bits = np.zeros(self.codec.channels, dtype=np.uint8)
        bits[list(self.channels)] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    @property
    def part_bytes(self) -> dict[str, int]:
        """Bytes of each part: what the task's rate counts. The header is not among them."""
        return {name: len(getattr(self, name)) for name in PARTS}

    @property
    def bpp(self) -> float:
        """Bits of all parts a pixel of the original picture."""
        return 8 * sum(self.part_bytes.values()) / (self.height * self.width)

    @property
    def hyper_size(self) -> tuple[int, int]:
        """Height and width of ẑ."""
        height, width = coded_size(self.height, self.width)
        return height // HYPER_STRIDE, width // HYPER_STRIDE

    def to_bytes(self) -> bytes:
        """Returns the file's bytes."""
        header = json.dumps(self._header(), separators=(",", ":"), sort_keys=True).encode()
        version_and_length = struct.pack("<HI", VERSION, len(header))
        checksum = crc32c(version_and_length + header)
        parts = b"".join(getattr(self, name) for name in PARTS)
        return PREAMBLE.pack(MAGIC, VERSION, len(header), checksum) + header + parts

    def _header(self) -> dict[str, Any]:
        listed = {} if self.selection == "dynamic" else {"channels": list(self.channels)}
        return {
            **listed,
            "codec": self.codec.to_attrs(),
            "height": self.height,
            "width": self.width,
            "selection": self.selection,
            "ranking_id": self.ranking_id,
            **{name: list(getattr(self, name)) for name in PER_CUT},
            "parts": [[len(part), crc32c(part)] for part in (getattr(self, n) for n in PARTS)],
        }

    @classmethod
    def from_bytes(
        cls, data: bytes, name: str = "the stream file", *, max_pixels: int = MAX_PIXELS
    ) -> StreamFile:
        """Reads `to_bytes`, and checks everything in it.

        Args:
            data: The file's bytes.
            name: How messages call the file.
            max_pixels: The largest picture that is decoded, in pixels as it is coded.

        Raises:
            IntegrityError: Foreign, truncated or altered bytes, or some behind the end.
            FormatVersionError: A whole file of another version.
            CapacityError: The picture is larger than `max_pixels`.
        """
        text, body = _read_header(data, name)
        try:
            header: dict[str, Any] = json.loads(text)
            parts = _split_parts(body, header["parts"], name)
            listed = header.get("channels")
            stream = cls(
                codec=records.typed(CodecSpec, header["codec"], name, "encode the picture again"),
                height=header["height"],
                width=header["width"],
                selection=header["selection"],
                channels=_unpack_mask(parts["mask"]) if listed is None else tuple(listed),
                z=parts["z"],
                y=parts["y"],
                ranking_id=header["ranking_id"],
                **{key: tuple(header[key]) for key in PER_CUT},
            )
            _require_mask(stream, parts["mask"])
        except IntegrityError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise IntegrityError(
                f"{name} has a header that cannot be right ({str(error)[:120]}); encode the "
                "picture again"
            ) from error
        height, width = coded_size(stream.height, stream.width)
        if height * width > max_pixels:
            raise CapacityError(
                f"{name} holds a picture of {stream.height}x{stream.width}, coded at {height}x"
                f"{width}, and at most {max_pixels} pixels are decoded; raise max_pixels of "
                "read_stream_file where such pictures are right"
            )
        return stream


def write_stream_file(path: str | Path, stream: StreamFile) -> int:
    """Writes a stream file whole or not at all, and returns its size in bytes.

    Raises:
        OSError: The folder is missing, full or not writable.
    """
    data = stream.to_bytes()
    write_atomically(Path(path), data)
    return len(data)


def read_stream_file(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> StreamFile:
    """Reads and checks a stream file, as `StreamFile.from_bytes` does.

    Raises:
        LatentStoreError: There is no such file, or it is no stream file that can be right.
    """
    if not Path(path).is_file():  # a device or a pipe may have no end
        raise LatentStoreError(f"there is no stream file {path}; check the path")
    return StreamFile.from_bytes(Path(path).read_bytes(), str(path), max_pixels=max_pixels)


def _read_header(data: bytes, name: str) -> tuple[bytes, bytes]:
    """Returns the header's JSON and what stands behind it."""
    if data[: len(MAGIC)] != MAGIC:
        raise IntegrityError(
            f"{name} is no stream file: it starts with {data[:8]!r}; give one that segment wrote"
        )
    if len(data) < PREAMBLE.size:
        raise IntegrityError(_truncated(name, len(data), PREAMBLE.size))
    _, version, length, checksum = PREAMBLE.unpack_from(data)
    end = PREAMBLE.size + length
    if len(data) < end:
        raise IntegrityError(_truncated(name, len(data), end))
    header = data[PREAMBLE.size : end]
    if crc32c(struct.pack("<HI", version, length) + header) != checksum:
        raise IntegrityError(
            f"{name} has a header that was altered (its crc32c differs); copy the file again"
        )
    if version != VERSION:
        raise FormatVersionError(
            f"{name} has stream file version {version}, this library reads {VERSION}; install a "
            "release of latent-store that reads it"
        )
    return header, data[end:]


def _require_types(stream: StreamFile) -> None:
    """Refuses values of other types than a header has; everything else relies on them."""
    spec = stream.codec
    texts = (spec.codec_id, spec.architecture, *spec.identity.values(), stream.selection)
    numbers = [spec.channels, spec.hyper_channels, stream.height, stream.width, *stream.channels]
    for name in PER_CUT:
        numbers += getattr(stream, name)
    texts_fit = all(
        type(text) is str and len(text) <= MOST_TEXT for text in (*texts, stream.ranking_id or "")
    )
    if not texts_fit or any(type(n) is not int or not 0 <= n <= MOST_NUMBER for n in numbers):
        raise LatentStoreError(
            f"texts of up to {MOST_TEXT} characters and whole numbers up to {MOST_NUMBER} belong "
            "there"
        )


def _require_mask(stream: StreamFile, mask: bytes) -> None:
    length = -(-stream.codec.channels // 8) if stream.selection == "dynamic" else 0
    # The length first: before it is right, so many channels are only a claim.
    if len(mask) != length or stream.mask != mask:
        raise LatentStoreError(f"a mask of {len(mask)} bytes is not that of its channels")


def _split_parts(body: bytes, sizes: list[list[int]], name: str) -> dict[str, bytes]:
    if any(
        type(number) is not int or not 0 <= number <= MOST_NUMBER
        for pair in sizes
        for number in pair
    ):
        raise TypeError("lengths and checksums of parts are whole numbers")
    expected = sum(length for length, _ in sizes)
    if len(body) < expected:
        raise IntegrityError(_truncated(name, len(body), expected))
    if len(body) > expected:
        raise IntegrityError(
            f"{name} has {len(body) - expected} bytes behind its end; copy the file again"
        )
    parts, start = {}, 0
    for part, (length, checksum) in zip(PARTS, sizes, strict=True):
        parts[part] = body[start : start + length]
        require_crc32c(parts[part], checksum, f"the {part} part of {name}")
        start += length
    return parts


def _unpack_mask(mask: bytes) -> tuple[int, ...]:
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    return tuple(int(channel) for channel in np.flatnonzero(bits))


def _truncated(name: str, found: int, expected: int) -> str:
    return f"{name} was truncated: {found} bytes where {expected} belong; copy the file again"
