"""Points with chosen numbers, for tests of what is made of points."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.evaluation.points import Point, SampleResult
from training.selection.rates import ImageRate
from training.tasks.average_precision import BoxesResult, mean_ap, voc_ap
from training.tasks.mean_iou import MapResult

CLASSES = ("road", "building", "car")


def make_sample(sample_id: str = "aachen_0", pixels: int = 1600, **changes: object) -> SampleResult:
    """Returns one image: 100 bytes over 1600 pixels, 2 of 3 classes, unless changed."""
    rate = {
        "hyper_bytes": 30,
        "y_bytes": 70,
        "mask_bytes": 0,
        "flush_bits": 80.0,
        "channels": 16,
        "decoded": True,
    }
    part = MapResult(hits=(700, 300, 0), labelled=(1000, 600, 0), predicted=(900, 500, 200))
    return SampleResult(
        sample_id=sample_id, pixels=pixels, rate=ImageRate(**(rate | changes)), part=part
    )


def with_part(sample: SampleResult, **changes: object) -> SampleResult:
    """Returns the image with another part of the score."""
    return dataclasses.replace(sample, part=dataclasses.replace(sample.part, **changes))


def make_point(label: str = "static-16", **changes: object) -> Point:
    """Returns one network's point of two images, unless changed."""
    values = {
        "key": f"key-{label}",
        "label": label,
        "codec_id": "bmshj2018-hyperprior-01234567",
        "quality": None,
        "domain": "latent",
        "selection": "static",
        "ranking_id": "gate",
        "ranking_method": "frequency",
        "keep": 16,
        "tied": 0,
        "channels_total": 192,
        "checkpoint": f"{label}.pt",
        "checkpoint_sha256": "ab" * 32,
        "class_names": CLASSES,
        "score": 0.5,
        "class_scores": (0.6, 0.4, None),
        "constant_class": 0,
        "constant_score": 0.31,
        "permuted_score": None,
        "psnr": 28.5,
        "psnr_samples": 2,
        "macs": 23_490_000_000,
        "macs_thop": 93_950_000_000,
        "macs_parts": {"transform": 23_490_000_000},
        "samples": (make_sample("aachen_0"), make_sample("aachen_1", y_bytes=170)),
    }
    return Point(**(values | changes))


def make_images(
    accuracy: float, images: int = 40, rate: float = 100.0, seed: int = 0, noise: int | None = None
) -> tuple[SampleResult, ...]:
    """Returns images of two classes: a share `accuracy` is right, `rate` bytes each, about.

    How hard an image is, and how large, depends on `seed` and its number alone: two networks
    find the same images hard. With `noise`, a seed too, each network has its own luck as well.
    """
    hard = np.random.default_rng(seed).normal(0, 0.12, images)
    size = np.random.default_rng(seed + 1).uniform(0.6, 1.4, images)
    if noise is not None:
        hard = hard + np.random.default_rng([seed, noise]).normal(0, 0.03, images)
    results = []
    for number in range(images):
        right = float(np.clip(accuracy + hard[number], 0.01, 0.99))
        hits = (round(1000 * right), round(600 * right), 0)
        rates = {"hyper_bytes": 0, "y_bytes": round(rate * size[number])}
        sample = make_sample(f"image_{number}", **rates)
        predicted = (hits[0] + 600 - hits[1], hits[1] + 1000 - hits[0], 0)
        results.append(with_part(sample, hits=hits, predicted=predicted))
    return tuple(results)


def measured(label: str, samples: tuple[SampleResult, ...], **changes: object) -> Point:
    """Returns a point whose mIoU is that of its images."""
    hits, labelled, predicted = (
        np.sum([getattr(s.part, name) for s in samples], axis=0)
        for name in ("hits", "labelled", "predicted")
    )
    iou = [
        h / (t + p - h) if t else None for h, t, p in zip(hits, labelled, predicted, strict=True)
    ]
    present = [v for v in iou if v is not None]
    return make_point(
        label, samples=samples, score=float(np.mean(present)), class_scores=tuple(iou), **changes
    )


def at_rate(label: str, y_bytes: int, score: float, **changes: object) -> Point:
    """Returns a point of one image with 30 + `y_bytes` bytes and a chosen score."""
    sample = make_sample(y_bytes=y_bytes)
    return make_point(label, score=score, samples=(sample,), **changes)


def make_detections(
    skill: float, images: int = 40, rate: float = 100.0, seed: int = 0
) -> tuple[SampleResult, ...]:
    """Returns images with objects of two classes: a share `skill` is found, some of it twice.

    What there is to find in an image depends on its number alone: two networks can find the same
    ones hard.
    """
    results = []
    for number in range(images):
        world, luck = np.random.default_rng(number), np.random.default_rng((seed, number))
        objects = world.integers(0, 4, 2)
        found = [(k, 1) for k, count in enumerate(objects, start=1) for _ in range(count)]
        found = [(k, int(luck.random() < skill)) for k, _ in found]
        results.append(
            SampleResult(
                sample_id=f"{number:03d}",
                pixels=1600,
                rate=make_sample(y_bytes=int(rate * (1 + 0.3 * world.random()))).rate,
                part=BoxesResult(
                    labels=tuple(k for k, _ in found),
                    scores=tuple(float(luck.integers(1, 9)) / 8 for _ in found),
                    hits=tuple(hit for _, hit in found),
                    objects=(0, *objects.tolist()),
                ),
            )
        )
    return tuple(results)


def measured_ap(label: str, samples: tuple[SampleResult, ...], **changes: object) -> Point:
    """Returns a point whose AP50 is that of its images."""
    parts = [s.part for s in samples]
    ap_K = voc_ap(parts, use_07_metric=False)
    own = {
        "task": "detection",
        "score": mean_ap(ap_K),
        "class_scores": tuple(None if np.isnan(v) else float(v) for v in ap_K),
        "constant_class": None,
        "constant_score": None,
        "more_scores": {"AP50-07": mean_ap(voc_ap(parts, use_07_metric=True)), "COCO AP": 0.1},
        "class_names": ("background", "car", "dog"),
    }
    return make_point(label, samples=samples, **(own | changes))
