"""Batches and crops: every row is seen, every batch is full, everything is keyed."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_store.batches.sampling import (
    Share,
    crop_origin,
    group_by_size,
    plan_epoch,
    plan_in_order,
)


def plan(groups, **changed):
    options = {"batch_size": 4, "chunk_rows": 8, "preload_rows": 16, "seed": 0, "epoch": 0}
    return plan_epoch(groups, **(options | changed))


@settings(max_examples=80, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    batch_size=st.integers(1, 9),
    chunk_rows=st.integers(1, 12),
    preload_rows=st.integers(1, 40),
    epoch=st.integers(0, 5),
)
def test_every_row_is_seen_in_full_batches_of_one_group(
    counts, batch_size, chunk_rows, preload_rows, epoch
) -> None:
    groups = [[1000 * g + 2 * i for i in range(n)] for g, n in enumerate(counts)]
    loads = plan(
        groups,
        batch_size=batch_size,
        chunk_rows=chunk_rows,
        preload_rows=preload_rows,
        epoch=epoch,
    )
    batches = [batch for load in loads for batch in load]
    assert len(batches) == sum(-(-len(group) // batch_size) for group in groups)
    assert {len(batch) for batch in batches} == {batch_size}
    assert all(len({row // 1000 for row in batch}) == 1 for batch in batches)
    seen = Counter(row for batch in batches for row in batch)
    assert set(seen) == {row for group in groups for row in group}
    extra = sum(seen.values()) - sum(counts)
    assert 0 <= extra < batch_size * len(counts)
    span = -(-preload_rows // batch_size) * batch_size
    assert all(sum(len(batch) for batch in load) <= span for load in loads)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    groups = [list(range(64))]
    assert plan(groups) == plan(groups)
    assert plan(groups) != plan(groups, epoch=1)
    assert plan(groups) != plan(groups, seed=1)


def test_a_load_reads_runs_of_consecutive_rows() -> None:
    load = plan([list(range(64))])[0]
    rows = np.unique(np.concatenate(load))
    assert np.count_nonzero(np.diff(rows) != 1) <= 1  # 16 rows in at most two runs of 8


def test_rows_are_shuffled_within_a_load() -> None:
    rows = [row for load in plan([list(range(64))]) for batch in load for row in batch]
    assert rows != sorted(rows)
    neighbours = sum(b == a + 1 for a, b in itertools.pairwise(rows))
    assert neighbours < 16


@settings(max_examples=40, deadline=None)
@given(world=st.integers(1, 4), runs=st.integers(1, 3), epoch=st.integers(0, 5), data=st.data())
def test_a_share_of_a_load_is_whole_runs(world, runs, epoch, data) -> None:
    chunk_rows = 6
    batch_size = world * data.draw(st.integers(1, 9))
    span = runs * math.lcm(batch_size, world * chunk_rows)
    sizes = {"batch_size": batch_size, "chunk_rows": chunk_rows, "preload_rows": span}
    for load in plan([list(range(3 * span))], **sizes, epoch=epoch):
        for share in (Share(rank, world) for rank in range(world)):
            rows = [row for batch in load for row in share.part(batch)]
            own = Counter(row // chunk_rows for row in rows)
            assert len(set(rows)) == len(rows) == span // world
            assert set(own.values()) == {chunk_rows}


def together(count: int, **changed: int) -> tuple[set[int], set[frozenset[int]]]:
    """Which rows filled up an epoch, and which pairs met in a batch, in any of 200 epochs."""
    filled, met = set(), set()
    for epoch in range(200):
        batches = [batch for load in plan([range(count)], **changed, epoch=epoch) for batch in load]
        seen = Counter(row for batch in batches for row in batch)
        filled |= {row for row, times in seen.items() if times > 1}
        met |= {frozenset(pair) for batch in batches for pair in itertools.combinations(batch, 2)}
    return filled, {pair for pair in met if len(pair) == 2}


@pytest.mark.parametrize("count", [6, 8, 11, 16, 22, 24])
def test_a_group_of_one_load_is_shuffled_whole(count: int) -> None:
    filled, met = together(count, batch_size=5, preload_rows=25)
    assert filled == set(range(count))
    assert len(met) == count * (count - 1) // 2


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 10**6),
    epoch=st.integers(0, 500),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    crop=st.integers(1, 20),
)
def test_crops_lie_on_the_latent_grid_within_the_image(row, epoch, height, width, crop) -> None:
    size = (16 * height, 16 * width)
    cut = (16 * min(crop, height), 16 * min(crop, width))
    top, left = crop_origin(0, epoch, row, size=size, crop=cut)
    assert top % 16 == left % 16 == 0
    assert 0 <= top <= size[0] - cut[0]
    assert 0 <= left <= size[1] - cut[1]


def test_crops_reach_every_place() -> None:
    found = {crop_origin(0, e, 3, size=(64, 48), crop=(32, 32)) for e in range(200)}
    assert found == {(t, x) for t in (0, 16, 32) for x in (0, 16)}


def test_in_order_every_row_once() -> None:
    loads = plan_in_order([[0, 1, 2], [7]], batch_size=2)
    assert loads == [[(0, 1)], [(2,)], [(7,)]]


def test_groups_by_size() -> None:
    sizes = [(64, 64), (64, 128), (64, 64)]
    assert group_by_size([3, 4, 5], sizes) == [[3, 5], [4]]
