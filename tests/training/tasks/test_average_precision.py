"""AP against a slow port of the devkit, and against COCO's own library, called directly."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from latent_store.format.boxes import Boxes
from tests.training.devkit import devkit_ap
from training.tasks.average_precision import (
    AveragePrecision,
    BoxesResult,
    coco_ap,
    match,
    mean_ap,
    voc_ap,
)
from training.tasks.detections import Detections

CLASSES = 4
SCORES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""So few that many tie."""


def make_truth(*objects: tuple) -> Boxes:
    """Objects as (x1, y1, x2, y2, label, difficult)."""
    return Boxes(
        boxes_N4=[o[:4] for o in objects],
        labels_N=[o[4] for o in objects],
        difficult_N=[o[5] for o in objects],
        truncated_N=[False for _ in objects],
    )


def make_found(*detections: tuple) -> Detections:
    """Detections as (x1, y1, x2, y2, label, score)."""
    return Detections(
        boxes_N4=[d[:4] for d in detections],
        labels_N=[d[4] for d in detections],
        scores_N=[d[5] for d in detections],
    )


def direct_coco_ap(truths: list[Boxes], found: list[Detections]) -> float:
    """The library as its own demo calls it: files' dicts, `loadRes`, `summarize`."""

    def box(x1, y1, x2, y2):
        return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}

    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(len(truths))],
        "categories": [{"id": k} for k in range(1, CLASSES)],
        "annotations": [],
    }
    for number, truth in enumerate(truths):
        for i, edges in enumerate(truth.boxes_N4.tolist()):
            item = {"id": len(coco.dataset["annotations"]) + 1, "image_id": number, **box(*edges)}
            item |= {"category_id": int(truth.labels_N[i]), "iscrowd": int(truth.difficult_N[i])}
            coco.dataset["annotations"].append(item)
    coco.createIndex()
    results = []
    for number, image in enumerate(found):
        for i, edges in enumerate(image.boxes_N4.tolist()):
            item = {"image_id": number, "category_id": int(image.labels_N[i]), **box(*edges)}
            results.append(item | {"score": float(image.scores_N[i])})
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


@st.composite
def pictures(draw) -> tuple[list[Boxes], list[Detections]]:
    """A few small pictures: boxes that overlap by chance, are equal, or moved by some pixels."""
    edge = st.integers(0, 8)

    def box() -> tuple[int, int, int, int]:
        x, y = draw(edge), draw(edge)
        return (x, y, x + 1 + draw(edge), y + 1 + draw(edge))

    truths, found = [], []
    for _ in range(draw(st.integers(1, 5))):
        objects = [
            (*box(), draw(st.integers(1, CLASSES - 1)), draw(st.booleans()))
            for _ in range(draw(st.integers(0, 4)))
        ]
        detections = []
        for _ in range(draw(st.integers(0, 6))):
            score = draw(st.sampled_from(SCORES))
            if objects and draw(st.booleans()):
                x1, y1, x2, y2, label, _ = draw(st.sampled_from(objects))
                move = draw(st.integers(0, 2))
                detections.append((x1 + move, y1, x2 + move, y2, label, score))
            else:
                detections.append((*box(), draw(st.integers(1, CLASSES - 1)), score))
        truths.append(make_truth(*objects))
        found.append(make_found(*detections))
    return truths, found


def _ap(truths: list[Boxes], found: list[Detections], *, use_07_metric: bool) -> np.ndarray:
    matches = [match(*pair, CLASSES) for pair in zip(truths, found, strict=True)]
    return voc_ap(matches, use_07_metric=use_07_metric)


@settings(max_examples=300, deadline=None)
@given(case=pictures(), use_07_metric=st.booleans())
def test_voc_ap_is_that_of_the_devkits_procedure(case, use_07_metric) -> None:
    ap_K = _ap(*case, use_07_metric=use_07_metric)
    expected = [devkit_ap(*case, k, use_07_metric=use_07_metric) for k in range(CLASSES)]
    np.testing.assert_allclose(ap_K, expected, rtol=0, atol=1e-9, equal_nan=True)
    assert math.isnan(ap_K[0])
    present = [v for v in expected if not math.isnan(v)]
    mean = sum(present) / len(present) if present else math.nan
    assert mean_ap(ap_K) == pytest.approx(mean, abs=1e-9, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(case=pictures())
def test_coco_ap_is_that_of_its_library(case) -> None:
    truths, found = case
    if any(len(image) for image in found):
        expected = direct_coco_ap(truths, found)
        assert coco_ap(truths, found) == pytest.approx(
            math.nan if expected == -1 else expected, abs=1e-6, nan_ok=True
        )


def test_a_detection_whose_best_box_is_taken_is_false_to_voc_and_takes_the_next_to_coco() -> None:
    """Both detections overlap the left object best, and the right one by more than half."""
    truth = make_truth((0, 0, 10, 10, 1, False), (3, 0, 13, 10, 1, False))
    found = make_found((0, 0, 10, 10, 1, 0.9), (1, 0, 11, 10, 1, 0.8))
    assert match(truth, found, CLASSES).hits == (1, 0)
    assert _ap([truth], [found], use_07_metric=False)[1] == pytest.approx(0.5)
    # To COCO both are true at overlaps up to 8 / 12, which are 4 of 10; at the others one is, which
    # reaches a recall of 0.5: 51 of 101 levels.
    assert coco_ap([truth], [found]) == pytest.approx((4 * 1 + 6 * 51 / 101) / 10)


def test_an_overlap_of_exactly_half_counts() -> None:
    truth = make_truth((0, 0, 10, 10, 1, False))
    half, less = make_found((0, 0, 10, 5, 1, 0.9)), make_found((0, 0, 10, 4, 1, 0.9))
    assert match(truth, half, CLASSES).hits == (1,)
    assert match(truth, less, CLASSES).hits == (0,)


def test_difficult_objects_neither_count_nor_punish() -> None:
    truth = make_truth((0, 0, 10, 10, 1, True), (20, 0, 30, 10, 1, False))
    sure = make_found((0, 0, 10, 10, 1, 0.9), (0, 0, 10, 9, 1, 0.8), (20, 0, 30, 10, 1, 0.7))
    matches = match(truth, sure, CLASSES)
    assert (matches.hits, matches.scores) == ((1,), (0.7,))
    assert matches.objects == (0, 1, 0, 0)
    assert _ap([truth], [sure], use_07_metric=False)[1] == 1
    assert coco_ap([truth], [sure]) == pytest.approx(1)


def test_classes_without_an_object_that_counts_are_left_out_of_the_mean() -> None:
    truth = make_truth((0, 0, 10, 10, 1, False), (0, 0, 10, 10, 2, True))
    found = make_found((0, 0, 10, 10, 1, 0.9), (50, 50, 60, 60, 2, 0.9), (0, 0, 9, 9, 3, 0.9))
    ap_K = _ap([truth], [found], use_07_metric=False)
    np.testing.assert_array_equal(ap_K, [np.nan, 1, np.nan, np.nan])
    assert mean_ap(ap_K) == 1


def test_nothing_found_is_zero_and_nothing_to_find_is_nothing() -> None:
    object_, none = make_truth((0, 0, 10, 10, 1, False)), make_truth()
    guess, nothing = make_found((0, 0, 10, 10, 1, 0.9)), make_found()
    assert mean_ap(_ap([object_], [nothing], use_07_metric=True)) == 0
    assert coco_ap([object_], [nothing]) == 0
    assert math.isnan(mean_ap(_ap([none], [guess], use_07_metric=False)))
    assert math.isnan(coco_ap([none], [guess]))
    assert math.isnan(coco_ap([none], [nothing]))


def test_equal_scores_rank_in_the_order_of_the_pictures() -> None:
    truths = [make_truth((0, 0, 10, 10, 1, False)), make_truth()]
    same = make_found((0, 0, 10, 10, 1, 0.5))
    assert _ap(truths, [same, same], use_07_metric=False)[1] == 1
    assert _ap(truths[::-1], [same, same], use_07_metric=False)[1] == 0.5


def test_boxes_without_an_area_match_nothing() -> None:
    truth = make_truth((5, 5, 5, 5, 1, False), (0, 0, 4, 4, 1, False))
    found = make_found((5, 5, 5, 5, 1, 0.9), (3, 3, 1, 1, 1, 0.8))
    assert match(truth, found, CLASSES).hits == (0, 0)


def test_the_summary_has_every_score_and_names_classes() -> None:
    metric = AveragePrecision()
    truth = make_truth((0, 0, 10, 10, 1, False), (20, 20, 40, 40, 3, False))
    output = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]], requires_grad=True),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9], dtype=torch.bfloat16),
    }
    results = [
        metric.compare(truth, Detections.from_output(output), CLASSES),
        metric.compare(make_truth(), make_found(), CLASSES),
    ]
    summary = metric.summary(results, ("background", "aeroplane", "bicycle", "bird"))
    assert [result.counted for result in results] == [2, 0]
    assert list(summary) == [
        *("ap50", "ap50_07", "coco_ap"),
        *("ap50/aeroplane", "ap50/bicycle", "ap50/bird"),
    ]
    assert (summary["ap50"], summary["ap50/aeroplane"], summary["ap50/bird"]) == (0.5, 1, 0)
    assert summary["coco_ap"] == pytest.approx(summary["ap50_07"]) == 0.5
    assert math.isnan(summary["ap50/bicycle"])
    (again,) = metric.drawn(results, np.ones((1, 2)))
    assert again == summary["ap50"]


def test_a_files_result_is_the_same_but_for_the_boxes() -> None:
    truth, found = make_truth((0, 0, 10, 10, 1, False)), make_found((0, 0, 10, 9, 1, 0.7))
    result = match(truth, found, CLASSES)
    read = BoxesResult.from_json(json.loads(json.dumps(result.to_json())))
    assert read == result
    assert (read.pair, result.pair) == (None, (truth, found))


def test_bad_detections_are_refused() -> None:
    with pytest.raises(ValueError, match="1 boxes have 2 labels, 1 scores"):
        Detections(boxes_N4=[[0, 0, 1, 1]], labels_N=[1, 1], scores_N=[0.5])
    with pytest.raises(ValueError, match="not finite"):
        make_found((0, 0, 1, 1, 1, math.nan))
    with pytest.raises(ValueError, match=r"labels 4 to 4 are not in \[1, 4\)"):
        match(make_truth(), make_found((0, 0, 1, 1, 4, 0.5)), CLASSES)


def test_five_thousand_pictures_of_twenty_classes_take_seconds() -> None:
    rng = np.random.default_rng(0)
    count, per_picture, classes = 5000, 40, 21
    start = time.process_time()
    matches = []
    for _ in range(count):
        corners = rng.integers(0, 300, (per_picture + 3, 2))
        boxes = np.concatenate([corners, corners + rng.integers(20, 200, corners.shape)], axis=1)
        labels = rng.integers(1, classes, per_picture + 3)
        truth = make_truth(*((*b, k, False) for b, k in zip(boxes[:3], labels[:3], strict=True)))
        scores = rng.random(per_picture)
        found = Detections(boxes_N4=boxes[3:], labels_N=labels[3:], scores_N=scores)
        matches.append(match(truth, found, classes))
    voc_ap(matches, use_07_metric=True)
    assert time.process_time() - start < 120
