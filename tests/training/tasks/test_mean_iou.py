"""mIoU, against a slow independent implementation and against scikit-free arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.tasks.mean_iou import MaskResult, MeanIou

CLASSES = 5


def add(metric: MeanIou, labels: list[int], guesses: list[int]) -> None:
    """Adds an image of one row."""
    metric.add(0, torch.tensor([labels], dtype=torch.uint8), torch.tensor([guesses]).long())


def slow_iou(labels: list[int], predictions: list[int]) -> dict[int, float]:
    """Set arithmetic over pixel positions."""
    counted = [i for i, label in enumerate(labels) if label != 255]
    found = {}
    for k in range(CLASSES):
        truth = {i for i in counted if labels[i] == k}
        guess = {i for i in counted if predictions[i] == k}
        if truth:
            found[k] = len(truth & guess) / len(truth | guess)
    return found


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 4, 255]), st.integers(0, CLASSES - 1)),
        min_size=1,
        max_size=60,
    ),
    cut=st.integers(0, 60),
)
def test_agrees_with_set_arithmetic_over_the_whole_set(pixels, cut) -> None:
    metric = MeanIou("abcde")
    for part in (pixels[:cut], pixels[cut:]):
        other = MeanIou("abcde")
        add(other, [label for label, _ in part], [guess for _, guess in part])
        metric.merge(other)
    expected = slow_iou([label for label, _ in pixels], [guess for _, guess in pixels])
    for k, value in enumerate(metric.iou()):
        assert value == pytest.approx(expected[k]) if k in expected else math.isnan(value)
    if expected:
        assert metric.main() == pytest.approx(sum(expected.values()) / len(expected))
    else:
        assert math.isnan(metric.main())


def test_ignored_pixels_count_nowhere() -> None:
    metric = MeanIou("abc")
    add(metric, [0, 255, 255], [0, 1, 2])
    assert metric.counted == 1
    assert metric.main() == 1


def test_a_class_that_is_only_predicted_does_not_enter_the_mean() -> None:
    metric = MeanIou("abc")
    add(metric, [0, 0, 1, 1], [0, 2, 1, 1])
    assert metric.main() == pytest.approx((0.5 + 1) / 2)


def test_constant_prediction_is_that_of_the_most_frequent_class() -> None:
    labels = [0, 0, 0, 1, 2, 255]
    metric, constant = MeanIou("abcd"), MeanIou("abcd")
    add(metric, labels, [3, 1, 0, 2, 2, 0])
    add(constant, labels, [0] * 6)
    assert metric.constant_class == 0
    assert metric.summary()["constant_miou"] == pytest.approx(constant.main())
    assert metric.summary()["accuracy"] == pytest.approx(2 / 5)


def test_summary_names_classes() -> None:
    metric = MeanIou(["road", "sky"])
    add(metric, [0], [0])
    summary = metric.summary()
    assert summary["iou/road"] == summary["miou"] == 1
    assert math.isnan(summary["iou/sky"])


def test_bad_input_is_refused() -> None:
    metric = MeanIou("abc")
    with pytest.raises(ValueError, match=r"needs a label, got \(1, 2\) for \(1, 3\)"):
        add(metric, [0, 0], [0, 0, 0])
    with pytest.raises(ValueError, match=r"\[0, 3\) or be 255, got 0 to 7"):
        add(metric, [0, 7], [0, 0])


def test_labels_beyond_the_prediction_are_padding() -> None:
    metric = MeanIou("abc")
    part = metric.add(0, torch.tensor([[0, 1, 2], [1, 1, 2]]), torch.tensor([[0, 2]]))
    assert part == MaskResult(hits=(1, 0, 0), labelled=(1, 1, 0), predicted=(1, 0, 1))
    assert part.counted == 2
