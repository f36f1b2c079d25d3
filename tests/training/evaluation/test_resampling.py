"""Drawing images again: the same for all, as mIoU itself counts, and with known answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from latent_store.errors import DatasetError
from tests.training.made_points import (
    make_detections,
    make_images,
    make_point,
    make_sample,
    measured,
    measured_ap,
    with_part,
)
from training.evaluation.methods import make_methods
from training.evaluation.resampling import (
    Images,
    draw_images,
    drawn_curves,
    interval,
    why_not_drawn,
)
from training.tasks.mean_iou import MeanIou


def test_draws_are_counted_as_a_set_of_their_images_is():
    point = measured("a", make_images(0.7, images=12))
    images = draw_images([point], draws=20)
    assert (images.times_DS.sum(axis=1) == 12).all()
    miou_D, bpp_D = images.score(point), images.bpp(point)
    for draw, times_S in enumerate(images.times_DS):
        drawn = [s for s, n in zip(point.samples, times_S, strict=True) for _ in range(int(n))]
        again = measured("b", tuple(drawn))
        assert miou_D[draw] == pytest.approx(again.score, abs=1e-12)
        assert bpp_D[draw] == pytest.approx(again.bpp, abs=1e-12)


def test_ap_of_a_draw_is_that_of_the_set_of_its_images():
    point = measured_ap("a", make_detections(0.6, images=12))
    images = draw_images([point], draws=20)
    ap_D = images.score(point)
    assert len(np.unique(ap_D)) > 10
    for draw, times_S in enumerate(images.times_DS):
        drawn = [s for s, n in zip(point.samples, times_S, strict=True) for _ in range(int(n))]
        # Copies of an image stand beside each other, and so do copies of a detection: equal scores
        # rank as they would if each were drawn apart by an infinitesimal.
        apart = tuple(_apart(sample, n) for n, sample in enumerate(drawn))
        assert ap_D[draw] == pytest.approx(measured_ap("b", apart).score, abs=1e-6)


def _apart(sample, number):
    """Detections of equal scores in the order of image, detection, copy."""
    scores = enumerate(sample.part.scores)
    scores = [s - 1e-3 * int(sample.sample_id) - 1e-5 * i for i, s in scores]
    return with_part(sample, scores=tuple(s - 1e-7 * number for s in scores))


def test_ap_of_each_image_once_is_the_points_own():
    point = measured_ap("a", make_detections(0.6))
    once = Images(times_DS=np.ones((1, 40)))
    assert once.score(point)[0] == pytest.approx(point.score, abs=1e-12)


def test_ap_has_an_interval_around_it_and_none_where_nothing_counts():
    point = measured_ap("a", make_detections(0.6))
    found = interval(draw_images([point]).score(point))
    assert found.low < point.score < found.high
    empty = [with_part(s, labels=(), scores=(), hits=(), objects=(0, 0, 0)) for s in point.samples]
    half = dataclasses.replace(point, samples=(point.samples[0], empty[1]))
    ap_D = draw_images([half], draws=400).score(half)
    assert np.isnan(ap_D).mean() == pytest.approx(0.25, abs=0.1)


def test_each_image_once_gives_the_points_own_numbers():
    rng = np.random.default_rng(0)
    labels, maps = rng.integers(0, 3, (2, 5, 64))
    results = []
    samples = []
    for number in range(5):
        map_HW = torch.from_numpy(maps[number])[None]
        results.append(MeanIou().compare(labels[number][None], map_HW, 3))
        right = labels[number] == maps[number]
        counts = [np.bincount(x, minlength=3) for x in (labels[number][right], labels[number])]
        counts.append(np.bincount(maps[number], minlength=3))
        values = dict(zip(("hits", "labelled", "predicted"), counts, strict=True))
        values = {k: tuple(v.tolist()) for k, v in values.items()}
        samples.append(with_part(make_sample(f"{number}", pixels=64), **values))
    point = make_point(samples=tuple(samples))
    once = Images(times_DS=np.ones((1, 5)))
    assert once.score(point)[0] == pytest.approx(
        MeanIou().summary(results, "abc")["miou"], abs=1e-12
    )
    assert once.bpp(point)[0] == pytest.approx(point.bpp)


def test_the_same_seed_draws_the_same_images():
    point = measured("a", make_images(0.7))
    first, second, other = (draw_images([point], 50, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.times_DS, second.times_DS)
    assert (first.times_DS != other.times_DS).any()


def test_a_method_does_not_differ_from_itself():
    a, b = measured("a", make_images(0.7)), measured("b", make_images(0.7))
    images = draw_images([a, b])
    found = interval(images.score(a) - images.score(b))
    assert (found.low, found.high, found.share) == (0, 0, 1)


def test_networks_of_equal_skill_differ_by_an_interval_around_zero():
    a, b = (measured(str(n), make_images(0.7, noise=n)) for n in (1, 2))
    images = draw_images([a, b])
    found = interval(images.score(a) - images.score(b))
    assert found.low < 0 < found.high


def test_the_paired_interval_is_narrower_than_the_unpaired():
    a, b = (measured(str(n), make_images(0.7, noise=n)) for n in (1, 2))
    images, others = draw_images([a, b], seed=0), draw_images([a, b], seed=1)
    paired = interval(images.score(a) - images.score(b))
    unpaired = interval(images.score(a) - others.score(b))
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_the_interval_of_a_mean_is_the_one_that_theory_gives():
    """Images of one size: their rate is a mean, whose standard error is known."""
    rng = np.random.default_rng(5)
    rates = rng.integers(50, 150, 200)
    samples = tuple(make_sample(f"{i}", y_bytes=int(r), hyper_bytes=0) for i, r in enumerate(rates))
    point = make_point(samples=samples)
    found = interval(draw_images([point], draws=4000).bpp(point))
    error = 8 / 1600 * rates.std() / np.sqrt(len(rates))
    assert found.low == pytest.approx(point.bpp - 1.96 * error, rel=0.01)
    assert found.high == pytest.approx(point.bpp + 1.96 * error, rel=0.01)


def test_draws_without_labels_are_left_out():
    empty = dict.fromkeys(("hits", "labelled", "predicted"), (0, 0, 0))
    nothing = with_part(make_sample("b"), **empty)
    point = make_point(samples=(make_sample("a"), nothing))
    images = draw_images([point], draws=400)
    miou_D = images.score(point)
    found = interval(miou_D)
    assert found.share == np.isfinite(miou_D).mean() == pytest.approx(0.75, abs=0.1)
    assert interval(np.full(3, np.nan)) is None
    (method,) = make_methods([point])
    curves = drawn_curves(method, images)
    assert [c is None for c in curves] == np.isnan(miou_D).tolist()


def test_points_of_other_images_are_not_paired():
    a, b = measured("a", make_images(0.7)), measured("b", make_images(0.7)[1:])
    assert draw_images([a, b]) is None
    reason = "a was measured on 40 images, b on 39, and they are not the same"
    assert why_not_drawn([a, b]) == reason
    moved = measured("b", make_images(0.7)[::-1])
    assert "and they are not the same" in why_not_drawn([a, moved])
    single = [measured("a", make_images(0.7, images=1))]
    assert draw_images(single) is None
    assert why_not_drawn(single) == "a single image cannot be drawn in several ways"
    with pytest.raises(DatasetError, match="there are no points to compare"):
        draw_images([])
