"""The objects of a picture."""

import numpy as np
import pytest

from latent_store.format.boxes import Boxes


def test_flipping_twice_gives_the_same_boxes_and_keeps_them_inside():
    boxes = Boxes(
        boxes_N4=[[0, 1, 10, 5], [90, 0, 100, 30]],
        labels_N=[3, 20],
        difficult_N=[False, True],
        truncated_N=[True, False],
    )
    once = boxes.flipped(100)
    np.testing.assert_array_equal(once.boxes_N4, [[90, 1, 100, 5], [0, 0, 10, 30]])
    np.testing.assert_array_equal(once.flipped(100).boxes_N4, boxes.boxes_N4)
    np.testing.assert_array_equal(once.difficult_N, boxes.difficult_N)


def test_a_picture_without_objects_has_empty_arrays_of_the_right_shape():
    none = Boxes(boxes_N4=[], labels_N=[], difficult_N=[], truncated_N=[])
    assert len(none) == 0
    assert none.boxes_N4.shape == (0, 4)
    assert none.flipped(7).boxes_N4.shape == (0, 4)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="1 boxes have 2 labels_N"):
        Boxes(boxes_N4=[[0, 0, 1, 1]], labels_N=[1, 2], difficult_N=[0], truncated_N=[0])
