"""mIoU, against a slow independent implementation and against scikit-free arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.tasks.metrics import ConfusionMatrix

CLASSES = 5


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
    matrix = ConfusionMatrix(CLASSES)
    for part in (pixels[:cut], pixels[cut:]):
        labels = torch.tensor([label for label, _ in part], dtype=torch.uint8)
        matrix.update(labels, torch.tensor([guess for _, guess in part], dtype=torch.int64))
    expected = slow_iou([label for label, _ in pixels], [guess for _, guess in pixels])
    for k, value in enumerate(matrix.iou()):
        assert value == pytest.approx(expected[k]) if k in expected else math.isnan(value)
    if expected:
        assert matrix.miou() == pytest.approx(sum(expected.values()) / len(expected))
    else:
        assert math.isnan(matrix.miou())


def test_ignored_pixels_count_nowhere() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 255, 255]), torch.tensor([0, 1, 2]))
    assert matrix.pixels == 1
    assert matrix.miou() == 1


def test_a_class_that_is_only_predicted_does_not_enter_the_mean() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]))
    assert matrix.miou() == pytest.approx((0.5 + 1) / 2)


def test_constant_prediction_is_that_of_the_most_frequent_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 255])
    matrix, constant = ConfusionMatrix(4), ConfusionMatrix(4)
    matrix.update(labels, torch.tensor([3, 1, 0, 2, 2, 0]))
    constant.update(labels, torch.zeros(6, dtype=torch.int64))
    assert matrix.constant_miou() == pytest.approx(constant.miou())
    assert matrix.accuracy() == pytest.approx(2 / 5)


def test_summary_names_classes() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    summary = matrix.summary(["road", "sky"])
    assert summary["iou/road"] == summary["miou"] == 1
    assert math.isnan(summary["iou/sky"])


def test_bad_input_is_refused() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        matrix.update(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\[0, 3\) or be 255, got 0 to 7"):
        matrix.update(torch.tensor([0, 7]), torch.tensor([0, 0]))
