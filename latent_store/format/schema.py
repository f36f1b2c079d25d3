"""A component on paper, the identity of latents, and the numbers that the format fixes.

A component is one job's own: labels, one teacher's features, one codec's latents,
or one ranking's copy of them. Its arrays share the split's sample axis; `layout` says how that
axis is cut into shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from latent_store.errors import FormatVersionError, IdentityError, IntegrityError
from latent_store.storage.records import Count, Name

FORMAT_NAME = "latent-store"
FORMAT_VERSION = "2.0"
"""Of the root: a store of version 1 has plans of another form, and keeps it."""
COMPONENT_VERSION = "1.3"
STEPS_VERSION = "2.0"
"""Of components whose ŷ is stored in steps: who knows 1.x alone would take steps for ŷ."""
NEWEST_VERSIONS = {"latents": STEPS_VERSION, "ranked": STEPS_VERSION}
"""By the kinds that hold ŷ; of every other kind it is `COMPONENT_VERSION`."""

_QUOTED = 80
"""Characters of what is no format's name or version, in a message."""
_VERSION = re.compile("[0-9]{1,4}[.][0-9]{1,4}")

LATENT_STRIDE = 16
"""Pixels per latent position: the codec's g_a halves the picture four times."""
HYPER_STRIDE = 64
"""Pixels per hyper-latent position; pictures are padded to multiples of it."""
PAD_MULTIPLE = HYPER_STRIDE
FEATURE_STRIDE = 4
"""Pixels per position of the teacher's stem features (conv1 and max pooling)."""
IGNORE_LABEL = 255
CHANNEL_GROUP = 16
"""Channels in one inner chunk of latents: the unit that a reader fetches."""
SEGMENTATION, DETECTION = "segmentation", "detection"
DEFAULT_CUTS = (16, 32, 64, 128)

DIGEST_BYTES = 8
MOST_CHANNELS = 2**16
MOST_STEPS = 2**10
Channels = Annotated[int, Meta(ge=1, le=MOST_CHANNELS)]

PAD_RULE = "right-bottom-edge-64"
PIXEL_DECODER = "pillow-rgb8-1"
ENCODER_DTYPE = "float32"


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """Names a frozen codec, and what makes two sets of latents the same kind of numbers.

    The first five fields after `architecture` are the identity: a store refuses to be appended
    to, or trained on together, with latents in which one of them differs.
    """

    codec_id: Name
    architecture: Name
    weights_sha256: Name
    cdf_sha256: Name
    pad_rule: Name = PAD_RULE
    encoder_dtype: Name = ENCODER_DTYPE
    pixel_decoder: Name = PIXEL_DECODER
    channels: Channels
    """M, the channels of ŷ."""
    hyper_channels: Channels
    """N, the channels of ẑ."""
    source: Name = "file"
    quality: Count | None = None
    metric: Name | None = None
    y_hat_steps: Annotated[int, Meta(ge=1, le=MOST_STEPS)] = 1
    """Steps in one, a power of two: where ŷ is not integer, the integer ŷ times this is stored."""

    IDENTITY_FIELDS = (
        "weights_sha256", "cdf_sha256", "pad_rule", "encoder_dtype", "pixel_decoder",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.y_hat_steps.bit_count() != 1:
            raise IntegrityError(
                f"the codec {self.codec_id} has {self.y_hat_steps} y_hat_steps, which must be a "
                "power of two; restore its attributes, or encode again"
            )

    @property
    def identity(self) -> dict[str, str]:
        """The five fields that must agree wherever latents meet."""
        return {name: getattr(self, name) for name in self.IDENTITY_FIELDS}

    @property
    def digest(self) -> bytes:
        """The identity in 8 bytes, which stream files have: the beginning of its sha256."""
        text = "\n".join(self.identity.values()).encode()
        return hashlib.sha256(text).digest()[:DIGEST_BYTES]

    def to_attrs(self) -> dict[str, Any]:
        """Returns a JSON-ready dict for Zarr attributes and checkpoints."""
        attrs = dataclasses.asdict(self)
        if self.y_hat_steps == 1:  # so stores of version 1.2, which may be appended to
            del attrs["y_hat_steps"]
        return attrs

    @property
    def latents_version(self) -> str:
        """The format version of components that hold ŷ."""
        return COMPONENT_VERSION if self.y_hat_steps == 1 else STEPS_VERSION

    @property
    def y_hat_attrs(self) -> dict[str, Any]:
        """Attributes of an array that holds ŷ: the factor to it, as CF's conventions have it."""
        return {} if self.y_hat_steps == 1 else {"scale_factor": 1 / self.y_hat_steps}

    def to_stored(self, y_hat: np.ndarray) -> np.ndarray:
        """Returns the integers that stand for ŷ in an array."""
        if self.y_hat_steps == 1:
            return y_hat
        stored: np.ndarray = np.rint(y_hat * self.y_hat_steps).astype(np.int64)
        return stored

    def from_stored(self, stored: np.ndarray) -> np.ndarray:
        """Returns ŷ of what an array holds: the same integers, or float32, which is exact."""
        if self.y_hat_steps == 1:
            return stored
        y_hat: np.ndarray = np.multiply(stored, 1 / self.y_hat_steps, dtype=np.float32)
        return y_hat

    @property
    def origin(self) -> dict[str, str]:
        """The origin of latents of this codec, see `ComponentSpec.origin`."""
        return {"codec": self.codec_id, **self.identity}

    def require_identity(self, other: Mapping[str, str], what: str) -> None:
        """Refuses `other`, another identity, and names the first field that differs.

        Raises:
            IdentityError: With both values and the remedy.
        """
        for name, mine in self.identity.items():
            theirs = other.get(name)
            if theirs != mine:
                raise IdentityError(
                    f"{what} has {name} {theirs!r}, but {self.codec_id} has {mine!r}: latents of "
                    "different codecs cannot be mixed; use the codec that wrote the latents, or "
                    "encode again"
                )

    def require_digest(self, digest: bytes, what: str) -> None:
        """Refuses the digest of another identity.

        Raises:
            IdentityError: With both digests and the remedy.
        """
        if digest != self.digest:
            raise IdentityError(
                f"{what} is of the codec with digest {digest.hex()}, and {self.codec_id} has "
                f"{self.digest.hex()}: latents of different codecs cannot be mixed; use the codec "
                "that wrote the latents, or encode again"
            )


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One Zarr array of a component; the sample axis comes first and is left out of the shapes.

    Attributes:
        name: Path below the component's group, e.g. `"y_hat"` or `"bitstream/y_length"`.
        shape: Shape of one row.
        dims: Dimension names of one row.
        inner: Inner chunk of one row, or None for a plain array with one chunk per shard of rows.
        level: Zstandard level.
        attrs: Attributes for readers that know Zarr alone; no digest holds them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    inner: tuple[int, ...] | None = None
    level: int = 3
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BytesSpec:
    """A column of variable-length bytes: flat `uint8` rows, one a shard, with offsets.

    It becomes four arrays: `NAME_data` uint8 [shard, byte], `NAME_offset` and `NAME_length`
    int64 [sample], `NAME_crc32c` uint32 [sample].
    """

    name: str
    capacity: int
    """The most bytes that one row may need; unwritten chunks cost nothing."""

    @property
    def data(self) -> str:
        """Name of the array of bytes."""
        return f"{self.name}_data"

    @property
    def columns(self) -> tuple[ArraySpec, ...]:
        """The arrays that say where each row's bytes lie, and their checksum."""
        dtypes = {"offset": "int64", "length": "int64", "crc32c": "uint32"}
        return tuple(ArraySpec(name=f"{self.name}_{n}", dtype=d) for n, d in dtypes.items())


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One job's component: its place in the split's group, its arrays and their meaning."""

    key: str
    """Path below the split's group: its kind, then ids, e.g. `ranked/CODEC/RANKING`."""
    arrays: tuple[ArraySpec, ...]
    streams: tuple[BytesSpec, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    version: str = COMPONENT_VERSION
    origin: Mapping[str, str] = field(default_factory=dict)
    """What its numbers are made from, beside pictures: every receipt repeats it."""

    @property
    def kind(self) -> str:
        """First part of the key; see `latent_store.components.registry`."""
        return self.key.partition("/")[0]

    @property
    def ranks(self) -> dict[str, int]:
        """Number of axes of every array, by its name; the four of each stream included."""
        ranks = {array.name: 1 + len(array.shape) for array in self.arrays}
        for stream in self.streams:
            ranks |= {stream.data: 2, **{column.name: 1 for column in stream.columns}}
        return ranks


def check_format(attrs: Mapping[str, Any], where: str, kind: str | None = None) -> None:
    """Refuses what is no latent store, or one of a newer major version.

    Args:
        attrs: Of the root, or of a component's group.
        where: Names it in messages.
        kind: The component's kind; None for the root.

    Raises:
        FormatVersionError: With the versions and the remedy.
    """
    expected = FORMAT_NAME if kind is None else f"{FORMAT_NAME}/{kind}"
    found = str(attrs.get("encoding-type"))[:_QUOTED]
    version = str(attrs.get("encoding-version", ""))[:_QUOTED]
    if found != expected or not _VERSION.fullmatch(version):
        what = "latent store" if kind is None else f"component of kind {kind}"
        raise FormatVersionError(
            f"{where} is a Zarr group but no {what} (encoding-type {found!r}, expected "
            f"{expected!r}; encoding-version {version!r}); give the URL that encode-to-store wrote"
        )
    newest = FORMAT_VERSION if kind is None else NEWEST_VERSIONS.get(kind, COMPONENT_VERSION)
    if not 1 <= int(version.split(".")[0]) <= int(newest.split(".")[0]):
        raise FormatVersionError(
            f"{where} has format version {version}, this library reads {newest}; install a "
            "release of latent-store that reads it"
        )


def is_of_major_1(attrs: Mapping[str, Any]) -> bool:
    """Tells whether a root with those attributes is of a store of version 1."""
    return str(attrs.get("encoding-version", "")).startswith("1.")
