"""One network on one split: what was measured, image by image, and the file that keeps it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent_store.errors import IntegrityError
from latent_store.storage.local_files import write_text
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
    """The measurements of one image: original pixels, bytes, and its part of the score."""

    sample_id: str
    pixels: int
    rate: ImageRate
    part: ImageResult


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
        stop: The confidence at which a network for any N asked for no more; `keep` is None then.
        confusion: [K, K] pixels of each true class (rows) that the network says to be each class;
            None for tasks without, and in files from before it was kept.
        trained: What the checkpoint says of its `step` and `epoch`, and of the run's `epochs` and
            `max_steps`; without what it does not say.
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
    stop: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    trained: dict[str, int] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The name of `score`."""
        return find_task(self.task).metric.title

    @property
    def codec_name(self) -> str:
        """The last digits of the codec's id, and its quality if it has one."""
        digits = self.codec_id.rsplit("-", 1)[-1]
        return digits if self.quality is None else f"{digits} (q{self.quality})"

    @property
    def bpp(self) -> float:
        """All bytes of all images, in bits, over all original pixels."""
        return sum(8 * s.rate.total_bytes for s in self.samples) / self.pixels

    @property
    def pixels(self) -> int:
        """Original pixels of all images."""
        return sum(s.pixels for s in self.samples)

    @property
    def steps(self) -> str:
        """The steps of its training, and of how many where that is not over; `-` if unknown."""
        step, most = self.trained.get("step"), self.trained.get("max_steps")
        if step is None:
            return "-"
        epoch, epochs = self.trained.get("epoch", 0), self.trained.get("epochs", 0)
        if epoch >= epochs or (most is not None and step >= most):
            return str(step)
        return f"{step} of {most}" if most is not None else f"{step} ({epoch} of {epochs} epochs)"

    @property
    def floor(self) -> float:
        """The score that nothing learned gives: at or below it a rate means nothing.

        That is always predicting the most frequent class, else another picture's truth, where that
        was measured, else 0.
        """
        level = self.permuted_score if self.constant_score is None else self.constant_score
        return level or 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that `from_json` reads."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["samples"] = [
            {
                "sample_id": sample.sample_id,
                "pixels": sample.pixels,
                "rate": dataclasses.asdict(sample.rate),
                **sample.part.to_json(),
            }
            for sample in self.samples
        ]
        return {"version": POINT_VERSION, **values}

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
        if fields.get("confusion") is not None:
            fields["confusion"] = tuple(map(tuple, fields["confusion"]))
        kind = find_task(fields.get("task", cls.task)).metric.result
        fields["samples"] = tuple(
            SampleResult(
                sample_id=sample["sample_id"],
                pixels=sample["pixels"],
                rate=ImageRate(**sample["rate"]),
                part=kind.from_json(sample),
            )
            for sample in fields["samples"]
        )
        return cls(**fields)


def summary(point: Point) -> dict[str, Any]:
    """Returns a point's numbers without its images: an entry of `results.json`.

    Beside the fields these are the parts of "bpp" ("flush_bpp" lies in those of both strings), how
    many channels images keep, how many were "decoded", and of how many images they are.
    """
    rates, pixels = [s.rate for s in point.samples], point.pixels
    channels = [rate.channels for rate in rates]
    return {
        **{
            f.name: getattr(point, f.name) for f in dataclasses.fields(point) if f.name != "samples"
        },
        "metric": point.metric,
        "bpp": point.bpp,
        "hyper_bpp": 8 * sum(rate.hyper_bytes for rate in rates) / pixels,
        "y_bpp": 8 * sum(rate.y_bytes for rate in rates) / pixels,
        "mask_bpp": 8 * sum(rate.mask_bytes for rate in rates) / pixels,
        "flush_bpp": sum(rate.flush_bits for rate in rates) / pixels,
        "channels_mean": sum(channels) / len(channels),
        "channels_min": min(channels),
        "channels_max": max(channels),
        "decoded": sum(rate.decoded for rate in rates),
        "num_samples": len(rates),
    }


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
