"""Points with chosen numbers, for tests of what is made of points."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.points import Point
from training.sample_results import ImageRate, SegmentationResult

CLASSES = ("road", "building", "car")


def make_sample(
    sample_id: str = "aachen_0", pixels: int = 1600, **changes: object
) -> SegmentationResult:
    """Returns one image: 100 bytes over 1600 pixels, 2 of 3 classes, unless changed."""
    rate = {
        "hyper_bytes": 30,
        "y_bytes": 70,
        "mask_bytes": 0,
        "flush_bits": 80.0,
        "channels": 16,
        "decoded": True,
    }
    return SegmentationResult(
        sample_id=sample_id,
        pixels=pixels,
        rate=ImageRate(**(rate | changes)),
        hits=(700, 300, 0),
        labelled=(1000, 600, 0),
        predicted=(900, 500, 200),
    )


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
) -> tuple[SegmentationResult, ...]:
    """Returns images of two classes: a share ``accuracy`` is right, ``rate`` bytes each, about.

    How hard an image is, and how large, depends on ``seed`` and its number alone: two networks
    find the same images hard. With ``noise``, a seed too, each network has its own luck as well.
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
        results.append(dataclasses.replace(sample, hits=hits, predicted=predicted))
    return tuple(results)


def measured(label: str, samples: tuple[SegmentationResult, ...], **changes: object) -> Point:
    """Returns a point whose mIoU is that of its images."""
    hits, labelled, predicted = (
        np.sum([getattr(s, name) for s in samples], axis=0)
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
    """Returns a point of one image with 30 + ``y_bytes`` bytes and a chosen score."""
    sample = make_sample(y_bytes=y_bytes)
    return make_point(label, score=score, samples=(sample,), **changes)
