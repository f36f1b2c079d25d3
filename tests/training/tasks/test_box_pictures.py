"""Boxes on pictures: at the pixels that half-open edges name, dashed where difficult."""

from __future__ import annotations

import numpy as np

from latent_store.format.boxes import Boxes
from training.tasks.classes import class_colours
from training.tasks.detections import Detections
from training.tasks.pictures import draw_detections, draw_objects

BLACK = np.zeros((60, 80, 3), dtype=np.uint8)
NAMES = ("background", "car", "dog")
COLOURS = class_colours(NAMES)
BOX = (20, 30, 60, 55)


def _objects(*, difficult: bool) -> Boxes:
    return Boxes(boxes_N4=[BOX], labels_N=[1], difficult_N=[difficult], truncated_N=[False])


def _found(*scores: float) -> Detections:
    labels = range(1, 1 + len(scores))
    return Detections(boxes_N4=[BOX] * len(scores), labels_N=[*labels], scores_N=scores)


def test_the_outline_covers_the_first_and_last_pixels_of_the_box() -> None:
    drawn_HWC = draw_objects(BLACK, _objects(difficult=False), NAMES)
    below_HWC = drawn_HWC[30:]
    rows, columns = np.nonzero((below_HWC == COLOURS[1]).all(-1))
    assert (rows.min(), rows.max()) == (0, 55 - 1 - 30)
    assert (columns.min(), columns.max()) == (20, 60 - 1)
    assert (drawn_HWC[40, 30] == 0).all()


def test_difficult_objects_are_dashed() -> None:
    plain, dashed = (
        (draw_objects(BLACK, _objects(difficult=d), NAMES) == COLOURS[1]).all(-1).sum()
        for d in (False, True)
    )
    assert 0.4 * plain < dashed < 0.9 * plain


def test_the_surest_lies_on_top_and_the_unsure_are_left_out() -> None:
    both = draw_detections(BLACK, _found(0.6, 0.9), NAMES)
    np.testing.assert_array_equal(both[31, 40], COLOURS[2])
    one = draw_detections(BLACK, _found(0.6, 0.9), NAMES, least_score=0.95)
    np.testing.assert_array_equal(one, BLACK)


def test_names_stay_in_the_picture_and_the_picture_stays_as_it_was() -> None:
    right = Detections(boxes_N4=[(72, 0, 80, 60)], labels_N=[1], scores_N=[0.5])
    drawn_HWC = draw_detections(BLACK, right, NAMES)
    assert ((drawn_HWC == COLOURS[1]).all(-1)[4:14]).any(0)[:60].any()
    assert not BLACK.any()


def test_boxes_without_an_area_are_drawn_as_points() -> None:
    none = Detections(boxes_N4=[(5.2, 5.2, 5.2, 5.2)], labels_N=[1], scores_N=[0.9])
    assert draw_detections(BLACK, none, NAMES).any()
