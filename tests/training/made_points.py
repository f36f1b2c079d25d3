"""Points with chosen numbers, for tests of what is made of points."""

from __future__ import annotations

from training.points import ImageRate, Point, SampleResult

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
    return SampleResult(
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
        "miou": 0.5,
        "class_iou": (0.6, 0.4, None),
        "constant_class": 0,
        "constant_miou": 0.31,
        "permuted_miou": None,
        "psnr": 28.5,
        "psnr_samples": 2,
        "macs": 23_490_000_000,
        "macs_thop": 93_950_000_000,
        "macs_parts": {"transform": 23_490_000_000},
        "samples": (make_sample("aachen_0"), make_sample("aachen_1", y_bytes=170)),
    }
    return Point(**(values | changes))


def at_rate(label: str, y_bytes: int, miou: float, **changes: object) -> Point:
    """Returns a point of one image with 30 + ``y_bytes`` bytes and a chosen mIoU."""
    sample = make_sample(y_bytes=y_bytes)
    return make_point(label, miou=miou, samples=(sample,), **changes)
