"""The schema of a store: the identity of latents, and the arrays of each kind of component.

A component is one job's own: labels, one teacher's features, one codec's latents,
or one ranking's copy of them. Its arrays share the split's sample axis; `layout` says how that
axis is cut into shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_store.errors import FormatVersionError, IdentityError
from latent_store.format.feature_encoding import FeatureEncoding

FORMAT_NAME = "latent-store"
FORMAT_VERSION = "1.1"

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
TASK_COMPONENTS = {SEGMENTATION: "labels", DETECTION: "boxes"}
"""The annotations that each task learns from."""
BOX_EDGES = ("x1", "y1", "x2", "y2")
"""The last axis of stored boxes: half-open pixel edges of the original picture, from 0."""
BOX_MULTIPLE = 8
"""Room for boxes comes in such steps: a dataset may gain a few without a wider array."""
DEFAULT_CUTS = (16, 32, 64, 128)

PAD_RULE = "right-bottom-edge-64"
PIXEL_DECODER = "pillow-rgb8-1"
ENCODER_DTYPE = "float32"


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """Names a frozen codec, and what makes two sets of latents the same kind of numbers.

    The first five fields after `architecture` are the identity: a store refuses to be appended
    to, or trained on together, with latents in which one of them differs.
    """

    codec_id: str
    architecture: str
    weights_sha256: str
    cdf_sha256: str
    pad_rule: str = PAD_RULE
    encoder_dtype: str = ENCODER_DTYPE
    pixel_decoder: str = PIXEL_DECODER
    channels: int
    """M, the channels of ŷ."""
    hyper_channels: int
    """N, the channels of ẑ."""
    source: str = "file"
    quality: int | None = None
    metric: str | None = None

    IDENTITY_FIELDS = (
        "weights_sha256", "cdf_sha256", "pad_rule", "encoder_dtype", "pixel_decoder",
    )  # fmt: skip

    @property
    def identity(self) -> dict[str, str]:
        """The five fields that must agree wherever latents meet."""
        return {name: getattr(self, name) for name in self.IDENTITY_FIELDS}

    def to_attrs(self) -> dict[str, Any]:
        """Returns a JSON-ready dict for Zarr attributes, checkpoints and stream headers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> CodecSpec:
        """Reads `to_attrs`; unknown keys, which later minor versions may add, are left."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in attrs.items() if k in names})

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


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One Zarr array of a component; the sample axis comes first and is left out of the shapes.

    Attributes:
        name: Path below the component's group, e.g. `"y_hat"` or `"bitstream/y_length"`.
        shape: Shape of one row.
        dims: Dimension names of one row.
        inner: Inner chunk of one row, or None for a plain array with one chunk per shard of rows.
        level: Zstandard level.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    inner: tuple[int, ...] | None = None
    level: int = 3


@dataclass(frozen=True, kw_only=True)
class BytesSpec:
    """A column of variable-length bytes: flat `uint8` rows, one a shard, with offsets.

    It becomes four arrays: `NAME_data` uint8 [shard, byte], `NAME_offset` and `NAME_length`
    int64 [sample], `NAME_crc32c` uint32 [sample].
    """

    name: str
    capacity: int
    """The most bytes that one row may need; unwritten chunks cost nothing."""


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """One job's component: its place in the split's group, its arrays and their meaning."""

    kind: str
    """`labels`, `boxes`, `teacher`, `latents` or `ranked`."""
    key: str
    """Path below the split's group, e.g. `latents/bmshj2018-hyperprior-6d87be32`."""
    arrays: tuple[ArraySpec, ...]
    streams: tuple[BytesSpec, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)


def labels_spec(
    height: int,
    width: int,
    class_names: Sequence[str] = (),
    label_ids: str = "cityscapes-train-ids",
) -> ComponentSpec:
    """Segmentation labels, uint8 class ids at the coded size, 255 = ignore.

    Args:
        height: Of the canvas, in pixels.
        width: Of the canvas, in pixels.
        class_names: By class id; empty where they are not known.
        label_ids: Names the numbering.
    """
    segmentation = ArraySpec(
        name="segmentation",
        dtype="uint8",
        shape=(height, width),
        dims=("height", "width"),
        inner=(min(height, 256), min(width, 256)),
        level=9,
    )
    return ComponentSpec(
        kind="labels",
        key="labels",
        arrays=(segmentation,),
        attrs={"ignore_label": IGNORE_LABEL, "label_ids": label_ids, **_named(class_names)},
    )


def boxes_spec(max_boxes: int, class_names: Sequence[str]) -> ComponentSpec:
    """The objects of each picture, float32 edges and uint8 class ids, padded with 0.

    Args:
        max_boxes: Objects that a row has room for.
        class_names: By class id; 0 is the background, which no object has.
    """
    flag = {"dtype": "uint8", "shape": (max_boxes,), "dims": ("box",)}
    arrays = (
        ArraySpec(name="boxes", dtype="float32", shape=(max_boxes, 4), dims=("box", "edge")),
        ArraySpec(name="box_label", **flag),
        ArraySpec(name="box_difficult", **flag),
        ArraySpec(name="box_truncated", **flag),
        ArraySpec(name="box_count", dtype="int32"),
    )
    attrs = {"edges": list(BOX_EDGES), **_named(class_names)}
    return ComponentSpec(kind="boxes", key="boxes", arrays=arrays, attrs=attrs)


def teacher_spec(
    teacher_id: str,
    height: int,
    width: int,
    channels: int,
    encoding: FeatureEncoding | None = None,
) -> ComponentSpec:
    """A teacher's stem features at a quarter of the coded size.

    Without an `encoding` they are `uint8`. Chunks hold 256×256 pixels, so that a crop reads a
    crop.
    """
    encoding = encoding or FeatureEncoding()
    rows, columns = height // FEATURE_STRIDE, width // FEATURE_STRIDE
    arrays = [
        ArraySpec(
            name="features",
            dtype=encoding.dtype,
            shape=(channels, rows, columns),
            dims=("feature", "feature_y", "feature_x"),
            inner=(channels, min(rows, 64), min(columns, 64)),
        )
    ]
    if encoding.dtype == "uint8":
        scale = ArraySpec(
            name="feature_scale", dtype="float32", shape=(channels,), dims=("feature",)
        )
        arrays.append(scale)
    return ComponentSpec(
        kind="teacher",
        key=f"teacher/{teacher_id}",
        arrays=tuple(arrays),
        attrs={
            "teacher_id": teacher_id,
            "feature_stride": FEATURE_STRIDE,
            **encoding.to_attrs(),
        },
    )


def latents_spec(codec: CodecSpec, height: int, width: int, dtype: str = "int16") -> ComponentSpec:
    """One codec's latents: ŷ, the ledger of bits, the gate's pooled inputs, both bitstreams."""
    rows, columns = height // LATENT_STRIDE, width // LATENT_STRIDE
    channel = {"dtype": "float32", "shape": (codec.channels,), "dims": ("channel",)}
    arrays = (
        _latent_array("y_hat", "channel", codec.channels, rows, columns, dtype),
        ArraySpec(name="channel_bits", **channel),
        ArraySpec(name="channel_mean", **channel),
        ArraySpec(name="channel_rms", **channel),
        ArraySpec(name="hyper_bits", dtype="float32"),
        ArraySpec(name="overhead_bits", dtype="float32"),
    )
    hyper = codec.hyper_channels * (height // HYPER_STRIDE) * (width // HYPER_STRIDE)
    streams = (
        BytesSpec(name="bitstream/y", capacity=_stream_capacity(codec.channels * rows * columns)),
        BytesSpec(name="bitstream/z", capacity=_stream_capacity(hyper)),
    )
    return ComponentSpec(
        kind="latents",
        key=f"latents/{codec.codec_id}",
        arrays=arrays,
        streams=streams,
        attrs={"codec": codec.to_attrs(), "latent_stride": LATENT_STRIDE},
    )


def ranked_spec(
    codec: CodecSpec,
    ranking_id: str,
    order: tuple[int, ...],
    cuts: tuple[int, ...],
    size: tuple[int, int],
    dtype: str,
) -> ComponentSpec:
    """One ranking's copy: ŷ in importance order, and the scalable bitstream with its cuts."""
    rows, columns = size[0] // LATENT_STRIDE, size[1] // LATENT_STRIDE
    cut = {"shape": (len(cuts),), "dims": ("cut",)}
    arrays = (
        _latent_array("y_hat", "rank", codec.channels, rows, columns, dtype),
        ArraySpec(name="bitstream/cut_bytes", dtype="int64", **cut),
        ArraySpec(name="bitstream/cut_symbols_crc32c", dtype="uint32", **cut),
        ArraySpec(name="bitstream/cut_indexes_crc32c", dtype="uint32", **cut),
        ArraySpec(name="bitstream/cut_bytes_crc32c", dtype="uint32", **cut),
    )
    capacity = _stream_capacity(codec.channels * rows * columns)
    return ComponentSpec(
        kind="ranked",
        key=f"ranked/{codec.codec_id}/{ranking_id}",
        arrays=arrays,
        streams=(BytesSpec(name="bitstream/scalable", capacity=capacity),),
        attrs={
            "codec": codec.to_attrs(),
            "ranking_id": ranking_id,
            "order": list(order),
            "cuts": list(cuts),
        },
    )


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
    found = attrs.get("encoding-type")
    version = str(attrs.get("encoding-version", ""))
    if found != expected or not version:
        what = "latent store" if kind is None else f"component of kind {kind}"
        raise FormatVersionError(
            f"{where} is a Zarr group but no {what} (encoding-type {found!r}, expected "
            f"{expected!r}); give the URL that encode-to-store wrote"
        )
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise FormatVersionError(
            f"{where} has format version {version}, this library reads {FORMAT_VERSION}; install a "
            "release of latent-store that reads it"
        )


def _named(class_names: Sequence[str]) -> dict[str, Any]:
    return {"class_names": list(class_names)} if class_names else {}


def _latent_array(
    name: str, axis: str, channels: int, rows: int, columns: int, dtype: str
) -> ArraySpec:
    # High levels of zstd pay here: latents are written once and read for ever, and what a
    # reader decompresses costs the same at every level.
    return ArraySpec(
        name=name,
        dtype=dtype,
        shape=(channels, rows, columns),
        dims=(axis, "latent_y", "latent_x"),
        inner=(CHANNEL_GROUP, rows, columns),
        level=19,
    )


def _stream_capacity(symbols: int) -> int:
    # An escaped symbol costs at most 16 bits for the escape, and 4-bit nibbles for a count and
    # the digits of an int16: under 6 bytes. The flush costs at most 8.
    return 6 * symbols + 64
