"""A file that holds one picture's streams and what decoding them needs besides the codec.

Its layout stands in FORMAT.md, section 10.

The header has 49 bytes (digest of the codec's identity, the picture's original size, checksums), 16
a cut, and one (two where the codec has more than 256) for each channel in the stream's order: any
network that takes the first of these channels can read the file, whichever encoded it. Names belong
to the store. Under dynamic selection the channels stand in `mask`, one bit each, since they are a
part of what such a picture costs.
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
from latent_store.format.schema import DIGEST_BYTES, HYPER_STRIDE, MOST_CHANNELS, CodecSpec
from latent_store.storage import records
from latent_store.storage.local_files import write_atomically

MAGIC = b"\x89LSTREAM"
VERSION = 2
PREAMBLE = struct.Struct("<8sHII")
FIXED = struct.Struct("<B8sIIIHII")
"""How a header begins: selection, digest of the codec, height, width, channels of the codec, number
of cuts, bytes of z, and crc32c of what is behind the header."""
PARTS = ("mask", "z", "y")
PER_CUT = tuple(field.name for field in dataclasses.fields(Cuts))
SELECTIONS = ("all", "static", "dynamic", "scalable")
"""In a header by their place here."""
ORDERED = ("static", "scalable")
"""Those whose channels have an order that a file must say."""
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError, struct.error)
MAX_PIXELS = 1 << 28
"""Of a picture, as it is coded: a decoder needs about 60 bytes for each."""
MOST_NUMBER = (1 << 32) - 1
"""Of every number in a header."""


@dataclass(frozen=True, kw_only=True)
class StreamFile(Cuts):
    """One picture as streams; `y` may be cut at its `cuts`, of which the last one is all of it.

    Attributes:
        codec_digest: Names the codec, see `CodecSpec.digest`.
        num_channels: The channels of the codec's ŷ.
        height: Of the picture, in pixels, before padding.
        width: As `height`.
        selection: `"all"` (natural order, CompressAI's string), `"static"` (a ranking's first
            channels), `"dynamic"` (the channels that a gate kept) or `"scalable"` (in order of
            importance, with cuts).
        channels: The channels in `y`, in its order.
        z: The hyper stream.
        y: The stream of ŷ; empty without channels.

    Raises:
        LatentStoreError: Values contradict each other.
    """

    codec_digest: bytes
    num_channels: int
    height: int
    width: int
    selection: str
    channels: tuple[int, ...]
    z: bytes
    y: bytes

    def __post_init__(self) -> None:
        _require_types(self)
        check_channels(self.channels, self.num_channels)
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
        bits = np.zeros(self.num_channels, dtype=np.uint8)
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
        header = self._header()
        version_and_length = struct.pack("<HI", VERSION, len(header))
        checksum = crc32c(version_and_length + header)
        return PREAMBLE.pack(MAGIC, VERSION, len(header), checksum) + header + self._body()

    def _body(self) -> bytes:
        return b"".join(getattr(self, name) for name in PARTS)

    def _header(self) -> bytes:
        order = b""
        if self.selection in ORDERED:
            order = np.array(self.channels, dtype=_order_dtype(self.num_channels)).tobytes()
        fixed = FIXED.pack(
            SELECTIONS.index(self.selection),
            self.codec_digest,
            self.height,
            self.width,
            self.num_channels,
            len(self.cuts),
            len(self.z),
            crc32c(self._body()),
        )
        counts = np.array([getattr(self, name) for name in PER_CUT], dtype="<u4")
        return fixed + counts.tobytes() + order

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
            FormatVersionError: A whole file of a newer version.
            CapacityError: The picture is larger than `max_pixels`.
        """
        version, header, body = _read_header(data, name)
        try:
            fields = (_read_json if version == 1 else _read_packed)(header, body, name)
            mask = fields.pop("mask")
            stream = cls(**fields)
            if stream.mask != mask:
                raise LatentStoreError(f"a mask of {len(mask)} bytes is not that of its channels")
        except IntegrityError:
            raise
        except _MALFORMED as error:
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
    data = Path(path).read_bytes()
    return StreamFile.from_bytes(data, str(path), max_pixels=max_pixels)


def _order_dtype(num_channels: int) -> str:
    return "<u1" if num_channels <= 1 << 8 else "<u2"


def _read_header(data: bytes, name: str) -> tuple[int, bytes, bytes]:
    """Returns version and header, and what stands behind it."""
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
    if not 1 <= version <= VERSION:
        raise FormatVersionError(
            f"{name} has stream file version {version}, this library reads 1 to {VERSION}; install "
            "a release of latent-store that reads it"
        )
    return version, header, data[end:]


def _read_json(text: bytes, body: bytes, name: str) -> dict[str, Any]:
    """Returns the fields of a file of version 1, whose header has texts and lists."""
    header: dict[str, Any] = json.loads(text)
    parts = _split_parts(body, header["parts"], name)
    codec = records.typed(CodecSpec, header["codec"], name, "encode the picture again")
    listed = header.get("channels")
    # Before the length is right, so many channels are only a claim.
    _require_mask_length(parts["mask"], codec.channels, header["selection"])
    return {
        "codec_digest": codec.digest,
        "num_channels": codec.channels,
        "channels": _unpack_mask(parts["mask"]) if listed is None else tuple(listed),
        **parts,
        **{key: header[key] for key in ("height", "width", "selection")},
        **{key: tuple(header[key]) for key in PER_CUT},
    }


def _read_packed(header: bytes, body: bytes, name: str) -> dict[str, Any]:
    """Returns the fields of a file of version 2."""
    kind, codec, height, width, num_channels, num_cuts, z_bytes, checksum = FIXED.unpack_from(
        header
    )
    selection = SELECTIONS[kind]
    if not 1 <= num_channels <= MOST_CHANNELS:
        raise LatentStoreError(f"a codec has 1 to {MOST_CHANNELS} channels, got {num_channels}")
    end = FIXED.size + 4 * len(PER_CUT) * num_cuts
    table = np.frombuffer(header[FIXED.size : end], dtype="<u4").reshape(len(PER_CUT), num_cuts)
    counts = {name: tuple(row) for name, row in zip(PER_CUT, table.tolist(), strict=True)}
    mask_bytes = -(-num_channels // 8) if selection == "dynamic" else 0
    y_start = mask_bytes + z_bytes
    _require_length(body, y_start + (*counts["cut_bytes"], 0)[num_cuts - 1], name)
    require_crc32c(body, checksum, f"what is behind the header of {name}")
    mask, order = body[:mask_bytes], header[end:]
    if selection not in ORDERED:
        channels = _unpack_mask(mask) if mask else tuple(range(num_channels))
        if order:
            raise LatentStoreError(f"a selection {selection!r} has no order of its own")
    else:
        channels = tuple(np.frombuffer(order, dtype=_order_dtype(num_channels)).tolist())
    return counts | {
        "codec_digest": codec,
        "num_channels": num_channels,
        "height": height,
        "width": width,
        "selection": selection,
        "channels": channels,
        "mask": mask,
        "z": body[mask_bytes:y_start],
        "y": body[y_start:],
    }


def _require_types(stream: StreamFile) -> None:
    """Refuses values of other types than a header has; everything else relies on them."""
    numbers = [stream.num_channels, stream.height, stream.width, *stream.channels]
    for name in PER_CUT:
        numbers += getattr(stream, name)
    if any(type(n) is not int or not 0 <= n <= MOST_NUMBER for n in numbers):
        raise LatentStoreError(f"whole numbers up to {MOST_NUMBER} belong there")
    if len(stream.codec_digest) != DIGEST_BYTES:
        raise LatentStoreError(f"a codec's digest has {DIGEST_BYTES} bytes")


def _require_mask_length(mask: bytes, num_channels: int, selection: str) -> None:
    if len(mask) != (-(-num_channels // 8) if selection == "dynamic" else 0):
        raise LatentStoreError(f"a mask of {len(mask)} bytes is not that of its channels")


def _require_length(body: bytes, expected: int, name: str) -> None:
    if len(body) < expected:
        raise IntegrityError(_truncated(name, len(body), expected))
    if len(body) > expected:
        raise IntegrityError(
            f"{name} has {len(body) - expected} bytes behind its end; copy the file again"
        )


def _split_parts(body: bytes, sizes: list[list[int]], name: str) -> dict[str, bytes]:
    if any(
        type(number) is not int or not 0 <= number <= MOST_NUMBER
        for pair in sizes
        for number in pair
    ):
        raise TypeError("lengths and checksums of parts are whole numbers")
    _require_length(body, sum(length for length, _ in sizes), name)
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
