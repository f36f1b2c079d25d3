"""Pictures side by side."""

from __future__ import annotations

import numpy as np

from latent_store.views.panels import legend, strip


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
    assert strip([("a title", np.zeros((20, 30, 3), dtype=np.uint8))]).shape[1] == 200


def test_titles_grow_with_pictures_and_go_on_in_a_second_line():
    narrow, wide = (np.zeros((20, width, 3), dtype=np.uint8) for width in (400, 2000))
    one = strip([("a title", narrow)]).shape[0]
    long = "a title that is so long that it takes two lines of so narrow a panel"
    assert strip([(long, narrow)]).shape[0] > one
    assert strip([("a title", wide)]).shape[0] > one + 30


def test_a_legend_shows_each_colour_and_has_room_for_all():
    entries = [(f"class {number}", (10 * number, 0, 200)) for number in range(12)]
    made = legend(entries, 40, 240)
    assert made.shape[0] >= 40
    assert made.shape[1:] == (240, 3)
    colours = {tuple(pixel) for pixel in made.reshape(-1, 3).tolist()}
    assert colours >= {colour for _, colour in entries}
