"""mIoU, against a slow independent implementation and against scikit-free arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.tasks.mean_iou import MapResult, MeanIou

CLASSES = 5
METRIC = MeanIou()


def compare(labels: list[int], guesses: list[int], classes: int = 3) -> MapResult:
    """The result of an image of one row."""
    truth_HW = torch.tensor([labels], dtype=torch.uint8)
    return METRIC.compare(truth_HW, torch.tensor([guesses]).long(), classes)


def summary(*results: MapResult) -> dict[str, float]:
    return METRIC.summary(results, "abcdefgh"[: len(results[0].hits)])


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
    results = [
        compare([label for label, _ in part], [guess for _, guess in part], CLASSES)
        for part in (pixels[:cut], pixels[cut:])
    ]
    expected = slow_iou([label for label, _ in pixels], [guess for _, guess in pixels])
    assert any(result.counted for result in results) == bool(expected)
    if expected:
        found = summary(*results)
        for k, name in enumerate("abcde"):
            value = found[f"iou/{name}"]
            assert value == pytest.approx(expected[k]) if k in expected else math.isnan(value)
        assert found["miou"] == pytest.approx(sum(expected.values()) / len(expected))


def test_ignored_pixels_count_nowhere() -> None:
    result = compare([0, 255, 255], [0, 1, 2])
    assert result.counted == 1
    assert summary(result)["miou"] == 1


def test_a_class_that_is_only_predicted_does_not_enter_the_mean() -> None:
    result = compare([0, 0, 1, 1], [0, 2, 1, 1])
    assert summary(result)["miou"] == pytest.approx((0.5 + 1) / 2)


def test_constant_prediction_is_that_of_the_most_frequent_class() -> None:
    labels = [0, 0, 0, 1, 2, 255]
    result, constant = compare(labels, [3, 1, 0, 2, 2, 0], 4), compare(labels, [0] * 6, 4)
    assert METRIC.constant_class([result]) == 0
    assert summary(result)["constant_miou"] == pytest.approx(summary(constant)["miou"])
    assert summary(result)["accuracy"] == pytest.approx(2 / 5)


def test_summary_names_classes() -> None:
    found = METRIC.summary([compare([0], [0], 2)], ["road", "sky"])
    assert found["iou/road"] == found["miou"] == 1
    assert math.isnan(found["iou/sky"])


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a label, got \(1, 2\) for \(1, 3\)"):
        compare([0, 0], [0, 0, 0])
    with pytest.raises(ValueError, match=r"\[0, 3\) or be 255, got 0 to 7"):
        compare([0, 7], [0, 0])


def test_labels_beyond_the_prediction_are_padding() -> None:
    part = METRIC.compare(torch.tensor([[0, 1, 2], [1, 1, 2]]), torch.tensor([[0, 2]]), 3)
    assert part == MapResult(hits=(1, 0, 0), labelled=(1, 1, 0), predicted=(1, 0, 1))
    assert part.counted == 2
