"""Maps in colour, and overlays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latent_store.errors import DatasetError
from latent_store.views.panels import save_png
from training.tasks import pictures

COLOURS = ((10, 20, 30), (40, 50, 60))
LABELS = np.array([[0, 1], [255, 1]], dtype=np.uint8)


def test_colours_are_the_classes_and_ignored_pixels_black():
    picture = pictures.colourise(LABELS, COLOURS)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[10, 20, 30], [40, 50, 60]], [[0, 0, 0], [40, 50, 60]]]


def test_overlay_mixes_and_leaves_ignored_pixels():
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = pictures.overlay(image, LABELS, COLOURS, strength=0.5)
    assert mixed[0, 0].tolist() == [55, 60, 65]
    assert mixed[1, 0].tolist() == [100, 100, 100]


def test_maps_survive_their_file(tmp_path):
    path = tmp_path / "new" / "map.png"
    save_png(path, LABELS)
    np.testing.assert_array_equal(pictures.read_labels(path), LABELS)
    assert [p.name for p in path.parent.iterdir()] == ["map.png"]


def test_bad_maps_are_refused(tmp_path):
    path = tmp_path / "map.png"
    path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="cannot be read as a label map"):
        pictures.read_labels(path)
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(DatasetError, match="has mode RGB, a label map has L"):
        pictures.read_labels(path)
