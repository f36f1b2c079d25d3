"""Which points are one method, and which cannot stand in one table."""

from __future__ import annotations

import dataclasses

import pytest

from latent_store.errors import DatasetError
from tests.training.made_points import (
    CLASSES,
    at_rate,
    make_detections,
    make_point,
    make_sample,
    measured_ap,
    with_part,
)
from training.evaluation.methods import make_methods, make_sweeps, point_names

NOTHING = with_part(make_detections(0.5)[0], objects=(0, 0, 0))


def test_codecs_make_a_curve_and_seeds_its_means():
    points = [
        at_rate("ours", y_bytes, score, codec_id=codec, seed=seed)
        for codec, seed, y_bytes, score in [
            ("a", 0, 70, 0.4), ("b", 0, 170, 0.5), ("a", 1, 90, 0.5), ("b", 1, 170, 0.7),
        ]
    ]  # fmt: skip
    (method,) = make_methods(points)
    assert method.seeds == (0, 1)
    assert method.curve.rates == (8 * 110 / 1600, 1.0)
    assert method.curve.scores == pytest.approx((0.45, 0.6))
    assert method.of_seed(1).curve.scores == (0.5, 0.7)
    assert method.of_seed(2) is None
    assert point_names(points) == ["ours, seed 0", "ours, seed 0", "ours, seed 1", "ours, seed 1"]


def test_one_label_at_several_cuts_is_several_methods():
    points = [at_rate("any", 70, 0.4, keep=16), at_rate("any", 90, 0.5, keep=32)]
    assert [m.name for m in make_methods(points)] == ["any, N = 16", "any, N = 32"]
    (sweep,) = make_sweeps(points)
    assert (sweep.name, sweep.keeps) == ("any", (16, 32))


def test_sweeps_are_families_at_one_codec_by_rising_n():
    points = [
        at_rate(f"static-{n} ({mask}) res", n, 0.4, keep=n, codec_id=codec)
        for mask in ("gate16", "variance")
        for n in (128, 16, 64)
        for codec in ("a", "b")
        if mask == "gate16" or n == 16
    ]
    sweeps = make_sweeps([*points, at_rate("dynamic", 70, 0.5, keep=None, codec_id="a")])
    assert [(s.name, s.codec_id, s.keeps) for s in sweeps] == [
        ("static-N (gate16) res", "a", (16, 64, 128)),
        ("static-N (gate16) res", "b", (16, 64, 128)),
    ]
    assert all(len(m.points) == 1 for s in sweeps for m in s.methods)


@pytest.mark.parametrize(
    "label", ["run16-{} (gate)", "q16-any-{}", "any-{}-layer16", "any {} at 64"]
)
def test_a_family_keeps_numbers_that_are_not_its_n(label: str):
    points = [at_rate(label.format(n), n, 0.4, keep=n) for n in (8, 16)]
    (sweep,) = make_sweeps(points)
    assert (sweep.name, sweep.keeps) == (label.format("N"), (8, 16))


def test_two_networks_under_one_name_are_refused():
    with pytest.raises(DatasetError, match="with seed None: on one curve the better would hide"):
        make_methods([make_point(), make_point(score=0.6)])


@pytest.mark.parametrize(
    ("points", "text"),
    [
        ([], "there are no points to compare; measure networks with evaluate-from-store"),
        (
            [make_point(), make_point("b", class_names=(*CLASSES, "sky"))],
            "static-16 was measured with 3 classes, b with 4; compare points of one dataset",
        ),
        (
            [make_point(), make_point("b", class_names=("road", "sky", "car"))],
            "class 1 of static-16 is 'building', of b it is 'sky'; compare",
        ),
        ([make_point(samples=())], "static-16 was measured on no images; measure it on a split"),
        (
            [make_point(samples=(with_part(make_sample(), labelled=(0, 0, 0)),))],
            "every pixel of the 1 images of static-16 is labelled 255 .*: it has no mIoU",
        ),
        (
            [make_point(), measured_ap("b", make_detections(0.5))],
            "static-16 was measured in segmentation, b in detection; compare points of one task",
        ),
        (
            [dataclasses.replace(measured_ap("b", make_detections(0.5)), samples=(NOTHING,))],
            "no object of the 1 images of b counts .*: it has no AP50; measure it on a split with",
        ),
    ],
)
def test_points_that_no_table_can_hold_are_one_line(points, text):
    with pytest.raises(DatasetError, match=text) as caught:
        make_methods(points)
    assert "\n" not in str(caught.value)
