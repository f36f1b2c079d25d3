"""Pictures side by side."""

from __future__ import annotations

import numpy as np

from latent_store.views.panels import strip


def test_strip_holds_its_panels_unchanged():
    pictures_ = [np.full((40, 200, 3), shade, dtype=np.uint8) for shade in range(1, 6)]
    titled = [(f"a rather long title for panel number {p[0, 0, 0]}", p) for p in pictures_]
    made = strip(titled, across=3)
    assert made.shape[1] == 3 * 200 + 2 * 4
    row = (made.shape[0] + 4) // 2
    for number, picture in enumerate(pictures_):
        down, right = divmod(number, 3)
        bottom, left = down * row + row - 4, right * 204
        np.testing.assert_array_equal(made[bottom - 40 : bottom, left : left + 200], picture)


def test_narrow_panels_leave_room_for_their_titles():
    assert strip([("a title", np.zeros((20, 30, 3), dtype=np.uint8))]).shape[1] == 160
