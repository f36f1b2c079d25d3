"""One network on one split: what was measured, image by image, and the file that keeps it.

Everything that a score of the whole split is made of is kept image by image, so that images can be
drawn again with replacement later.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent_store.errors import IntegrityError
from latent_store.storage.location import write_text
from training.selection.rates import ImageRate
from training.tasks.metric import ImageResult
from training.tasks.registry import find_task

POINT_VERSION = 1
"""Changes whenever older files of points would mean something else."""
PIXEL_RAW = "pixel (trained on raw)"
"""The name in tables of a teacher that is given decoded pictures."""
_RENAMED = {
    "miou": "score",
    "class_iou": "class_scores",
    "constant_miou": "constant_score",
    "permuted_miou": "permuted_score",
}
"""Names in files from when segmentation was the only task."""


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """The measurements of one image.

    Attributes:
        sample_id: As in the store's index.
        pixels: Original height × width.
        rate: Its bytes.
        part: Its part of the score.
    """

    sample_id: str
    pixels: int
    rate: ImageRate
    part: ImageResult

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that `from_json` reads; the part's fields are beside ours."""
        return {
            "sample_id": self.sample_id,
            "pixels": self.pixels,
            "rate": dataclasses.asdict(self.rate),
            **self.part.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], kind: type[ImageResult]) -> SampleResult:
        """Reads `to_json`; `kind` is that of the task's results.

        Raises:
            KeyError, TypeError: The dict is of another shape.
        """
        return cls(
            sample_id=data["sample_id"],
            pixels=data["pixels"],
            rate=ImageRate(**data["rate"]),
            part=kind.from_json(data),
        )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network, one codec, one split: a point of the plane of rate and score.

    Attributes:
        key: Digest of everything that the numbers depend on; the name of the file.
        label: The method's name in tables and plots; see `training.evaluation.methods`.
        codec_id, quality: The codec, and its quality where it is one of the zoo's.
        domain: `latent` or `pixel`.
        selection: `none`, `dynamic`, `static`, `any`.
        ranking_id, ranking_method, keep: Of a network on the first N ranked channels, else None.
        tied: Channels of equal score on both sides of the ranking's cut at `keep`; above 0, which
            channels such a network has was not decided by the score.
        channels_total: M.
        checkpoint, checkpoint_sha256: File name and digest.
        class_names: Of the K classes.
        score: Of all images, as `metric` says.
        class_scores: [K] score of each class; None for classes that the split has not.
        constant_class, constant_score: Always predicting the split's most frequent class; None for
            tasks without such a baseline.
        permuted_score: With every image's ŷ given to another image's truth; None if not asked for.
        psnr, psnr_samples: Mean of the full decode in dB, over the images where it was measured.
        macs, macs_thop: Multiply-adds behind the entropy decoder at the first image's coded size:
            the network's, in the pixel domain with g_s; true, and as thop would count them.
        macs_parts: True multiply-adds by part: g_s, gate, transform, stem, tail.
        samples: What was measured, in the split's row order.
        seed: Of the training run; None where the checkpoint does not say.
        task: The name of the task.
        more_scores: Other scores of the task, by the names that tables have.
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
    score: float
    class_scores: tuple[float | None, ...]
    constant_class: int | None
    constant_score: float | None
    permuted_score: float | None
    psnr: float | None
    psnr_samples: int
    macs: int
    macs_thop: int
    macs_parts: dict[str, int]
    samples: tuple[SampleResult, ...]
    seed: int | None = None
    task: str = "segmentation"
    more_scores: dict[str, float] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The name of `score`."""
        return find_task(self.task).metric.title

    @property
    def bpp(self) -> float:
        """All bytes of all images, in bits, over all original pixels."""
        return self._per_pixel(sum(8 * s.rate.total_bytes for s in self.samples))

    @property
    def hyper_bpp(self) -> float:
        """The z strings' part of `bpp`."""
        return self._per_pixel(sum(8 * s.rate.hyper_bytes for s in self.samples))

    @property
    def y_bpp(self) -> float:
        """The y strings' part of `bpp`."""
        return self._per_pixel(sum(8 * s.rate.y_bytes for s in self.samples))

    @property
    def mask_bpp(self) -> float:
        """The dynamic masks' part of `bpp`."""
        return self._per_pixel(sum(8 * s.rate.mask_bytes for s in self.samples))

    @property
    def flush_bpp(self) -> float:
        """The coder's flush, a part of `hyper_bpp` and `y_bpp`."""
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
        """Returns a JSON-ready dict that `from_json` reads."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        samples = [sample.to_json() for sample in self.samples]
        return {"version": POINT_VERSION, **values, "samples": samples}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Reads `to_json`.

        Raises:
            KeyError, TypeError: The dict is of another shape.
        """
        data = {_RENAMED.get(name, name): value for name, value in data.items()}
        # A field with a default may be missing from older files.
        fields = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        for name in ("class_names", "class_scores"):
            fields[name] = tuple(fields[name])
        kind = find_task(fields.get("task", cls.task)).metric.result
        fields["samples"] = tuple(SampleResult.from_json(s, kind) for s in fields["samples"])
        return cls(**fields)


def summary(point: Point) -> dict[str, Any]:
    """Returns a point's numbers without its images: an entry of `results.json`."""
    names = (f.name for f in dataclasses.fields(point) if f.name != "samples")
    measured = (
        "metric", "bpp", "hyper_bpp", "y_bpp", "mask_bpp", "flush_bpp",
        "channels_mean", "channels_min", "channels_max", "decoded",
    )  # fmt: skip
    values = {name: getattr(point, name) for name in (*names, *measured)}
    return {**values, "num_samples": len(point.samples)}


def write_point(folder: Path, point: Point) -> Path:
    """Writes `KEY.json` whole or not at all, and returns its path."""
    path = folder / f"{point.key}.json"
    write_text(path, json.dumps(point.to_json()))
    return path


def read_point(folder: Path, key: str) -> Point | None:
    """Returns the point that was measured under `key`, or None if it must be measured.

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
        raise IntegrityError(
            f"{path} is no measured point ({error}); delete it to measure again"
        ) from error
