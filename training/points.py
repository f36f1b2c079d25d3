"""One network on one split: what was measured, image by image, and the file that keeps it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_store.errors import IntegrityError

POINT_VERSION = 1
"""Changes whenever older files of points would mean something else."""
PIXEL_RAW = "pixel (trained on raw)"
"""What tables call a teacher that is given decoded pictures."""


@dataclass(frozen=True, kw_only=True)
class ImageRate:
    """The real bytes of one image, part by part.

    Attributes:
        hyper_bytes: Length of the z string.
        y_bytes: Length of the y string, or of its prefix, that carries the kept channels.
        mask_bytes: Bytes that tell the decoder which channels come, where that is no constant.
        flush_bits: Bits of both strings beyond the ledger's: the coder's flush, and a cut's.
        channels: Kept channels.
        decoded: Whether the strings were decoded and gave the network its input.
    """

    hyper_bytes: int
    y_bytes: int
    mask_bytes: int
    flush_bits: float
    channels: int
    decoded: bool

    @property
    def total_bytes(self) -> int:
        """Bytes that the task needs."""
        return self.hyper_bytes + self.y_bytes + self.mask_bytes


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """One image: its rate, and what the network got right.

    Attributes:
        sample_id: As in the store's index.
        pixels: Original height × width.
        rate: Its bytes.
        hits, labelled, predicted: Pixels of each class that were right, that the label has, that
            the network says (where the label is not ignored); they are all that mIoU needs, so
            images can be drawn again with replacement later.
    """

    sample_id: str
    pixels: int
    rate: ImageRate
    hits: tuple[int, ...]
    labelled: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network, one codec, one split: a point of the rate–mIoU plane.

    Attributes:
        key: Digest of everything that the numbers depend on; the name of the file.
        label: The method's name in tables and plots; see ``training.methods``.
        codec_id, quality: The codec, and its quality where it is one of the zoo's.
        domain: ``latent`` or ``pixel``.
        selection: ``none``, ``dynamic``, ``static``.
        ranking_id, ranking_method, keep: Of static selection, else None.
        tied: Channels of equal score on both sides of the ranking's cut at ``keep``; above 0, which
            channels a static network has was not decided by the score.
        channels_total: M.
        checkpoint, checkpoint_sha256: File name and digest.
        class_names: Of the K classes.
        miou: From one confusion matrix over all images, over classes that the labels contain.
        class_iou: [K]; None for classes that the labels do not contain.
        constant_class, constant_miou: Always predicting the split's most frequent class.
        permuted_miou: With every image's ŷ given to another image's label; None if not asked for.
        psnr, psnr_samples: Mean of the full decode in dB, over the images where it was measured.
        macs, macs_thop: Multiply-adds behind the entropy decoder at the first image's coded size:
            the network's, in the pixel domain with g_s; true, and as thop would count them.
        macs_parts: True multiply-adds by part: g_s, gate, transform, stem, tail.
        samples: What was measured, in the split's row order.
        seed: Of the training run; None where the checkpoint does not say.
    """

    key: str
    label: str
    codec_id: str
    quality: int | None
    domain: str
    selection: str
    ranking_id: str | None
    ranking_method: str | None
    keep: int | None
    tied: int
    channels_total: int
    checkpoint: str
    checkpoint_sha256: str
    class_names: tuple[str, ...]
    miou: float
    class_iou: tuple[float | None, ...]
    constant_class: int
    constant_miou: float
    permuted_miou: float | None
    psnr: float | None
    psnr_samples: int
    macs: int
    macs_thop: int
    macs_parts: dict[str, int]
    samples: tuple[SampleResult, ...]
    seed: int | None = None

    @property
    def bpp(self) -> float:
        """All bytes of all images, in bits, over all original pixels."""
        return self._per_pixel(sum(8 * s.rate.total_bytes for s in self.samples))

    @property
    def hyper_bpp(self) -> float:
        """The z strings' part of :attr:`bpp`."""
        return self._per_pixel(sum(8 * s.rate.hyper_bytes for s in self.samples))

    @property
    def y_bpp(self) -> float:
        """The y strings' part of :attr:`bpp`."""
        return self._per_pixel(sum(8 * s.rate.y_bytes for s in self.samples))

    @property
    def mask_bpp(self) -> float:
        """The dynamic masks' part of :attr:`bpp`."""
        return self._per_pixel(sum(8 * s.rate.mask_bytes for s in self.samples))

    @property
    def flush_bpp(self) -> float:
        """How much of :attr:`hyper_bpp` and :attr:`y_bpp` is the coder's flush."""
        return self._per_pixel(sum(s.rate.flush_bits for s in self.samples))

    @property
    def channels_mean(self) -> float:
        """Kept channels, mean over images."""
        return sum(s.rate.channels for s in self.samples) / len(self.samples)

    @property
    def channels_min(self) -> int:
        """Fewest kept channels of an image."""
        return min(s.rate.channels for s in self.samples)

    @property
    def channels_max(self) -> int:
        """Most kept channels of an image."""
        return max(s.rate.channels for s in self.samples)

    @property
    def decoded(self) -> int:
        """Images whose network input came out of the entropy decoder."""
        return sum(s.rate.decoded for s in self.samples)

    def _per_pixel(self, bits: float) -> float:
        return bits / sum(s.pixels for s in self.samples)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that :meth:`from_json` reads."""
        return {"version": POINT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Reads :meth:`to_json`.

        Raises:
            KeyError, TypeError: The dict is of another shape.
        """
        # A field with a default may be missing from older files.
        fields = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        for name in ("class_names", "class_iou"):
            fields[name] = tuple(fields[name])
        fields["samples"] = tuple(_sample_result(s) for s in fields["samples"])
        return cls(**fields)


def summary(point: Point) -> dict[str, Any]:
    """Returns a point's numbers without its images: an entry of ``results.json``."""
    kept = point.to_json()
    del kept["samples"], kept["version"]
    measured = (
        "bpp", "hyper_bpp", "y_bpp", "mask_bpp", "flush_bpp",
        "channels_mean", "channels_min", "channels_max", "decoded",
    )  # fmt: skip
    return {**kept, "num_samples": len(point.samples), **{n: getattr(point, n) for n in measured}}


def write_point(folder: Path, point: Point) -> Path:
    """Writes ``KEY.json`` whole or not at all, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{point.key}.json"
    write_text(path, json.dumps(point.to_json()))
    return path


def read_point(folder: Path, key: str) -> Point | None:
    """Returns the point that was measured under ``key``, or None if it must be measured.

    Raises:
        IntegrityError: The file was damaged or edited.
    """
    path = folder / f"{key}.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        if data["version"] != POINT_VERSION:
            return None
        return Point.from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is no measured point ({error}); delete it to measure again"
        raise IntegrityError(message) from error


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step, so that a reader or a rerun never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _sample_result(data: Mapping[str, Any]) -> SampleResult:
    counts = {name: tuple(data[name]) for name in ("hits", "labelled", "predicted")}
    return SampleResult(**{**data, **counts, "rate": ImageRate(**data["rate"])})
