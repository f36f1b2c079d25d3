"""The shard plan: rows are settled once, and a changed data root is refused by name."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_store.components import creation
from latent_store.errors import DatasetError, PlanMismatchError
from latent_store.format.plan import ShardPlan, make_plan
from latent_store.format.plan_files import from_record, read_plan, to_json, write_plan
from latent_store.format.sample_lists import Samples
from latent_store.format.samples import Sample
from latent_store.storage import groups
from latent_store.storage.location import Location

SIDES = st.integers(1, 700)


def samples(count: int, start: int = 0, size: tuple[int, int] = (60, 100)) -> list[Sample]:
    return [
        Sample(
            sample_id=f"s{i:04d}",
            image_uri=f"{i}.png",
            label_uri=f"{i}_labels.png",
            height=size[0],
            width=size[1],
            image_bytes=1000 + i,
        )
        for i in range(start, start + count)
    ]


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 30))
def test_an_append_starts_at_a_new_shard_and_moves_nobody(first: int, size: int, more: int) -> None:
    plan = make_plan("cityscapes", "train", samples(first), size)
    longer = plan.extended(samples(first + more))
    assert longer.rows[:first].tolist() == plan.rows.tolist()
    assert len(set(longer.rows.tolist())) == first + more
    assert (longer.rows[first:] >= plan.num_rows).all()
    shards = range(longer.num_shards)
    pairs = [pair for shard in shards for pair in longer.in_shard(shard)]
    assert pairs == list(zip(longer.rows, longer.samples, strict=True))


def stored(plan: ShardPlan, version: str) -> ShardPlan:
    """Returns a plan as it is read from a store of that version of the format."""
    location = Location(f"memory://{uuid4().hex}")
    creation.create_store(location)
    groups.update_attrs(location, "", {"encoding-version": version})
    write_plan(location, plan)
    return read_plan(location, plan.dataset, plan.split)


def pairs_of(plan: ShardPlan) -> list[tuple[int, Sample]]:
    return list(zip(plan.rows.tolist(), plan.samples, strict=True))


@pytest.mark.parametrize("version", ["1.3", "2.0"])
def test_a_plan_survives_its_persisted_form(version: str) -> None:
    plan = make_plan("cityscapes", "train", samples(5), 2).extended(samples(8))
    again = stored(plan, version)
    assert pairs_of(again) == pairs_of(plan)
    assert replace(again, samples=Samples()) == replace(plan, samples=Samples())


def test_the_first_difference_of_a_changed_data_root_is_named() -> None:
    plan = make_plan("cityscapes", "train", samples(3), 2)
    now = samples(3)
    now[1] = replace(now[1], image_bytes=7)
    with pytest.raises(PlanMismatchError, match="s0001 has image_bytes 7, planned 1001"):
        plan.extended(now)
    with pytest.raises(PlanMismatchError, match="s0000 is gone"):
        plan.extended(now[1:])


def test_a_failed_sample_may_have_been_mended() -> None:
    plan = make_plan("cityscapes", "train", samples(3), 2)
    now = samples(3)
    now[1] = replace(now[1], image_bytes=7)
    assert plan.extended(now, mended={"s0001"}).samples[1].image_bytes == 7


def test_bad_manifests_are_refused() -> None:
    with pytest.raises(DatasetError, match="'s0000' occurs twice"):
        make_plan("cityscapes", "train", samples(1) + samples(1), 2)
    with pytest.raises(DatasetError, match="cityscapes/train has no samples"):
        make_plan("cityscapes", "train", [], 2)
    other = replace(samples(2)[1], height=70)
    with pytest.raises(DatasetError, match=r"70x100 \(height x width\), but the split is coded at"):
        make_plan("cityscapes", "train", [samples(1)[0], other], 2)
    with pytest.raises(PlanMismatchError, match="at least 1, got 0"):
        make_plan("cityscapes", "train", samples(1), 0)
    twice = samples(2)[1:] * 2
    with pytest.raises(DatasetError, match="'s0001' occurs twice"):
        make_plan("cityscapes", "train", samples(1), 2).extended(samples(1) + twice)


def sized(sizes: list[tuple[int, int]]) -> list[Sample]:
    return [
        replace(sample, height=height, width=width)
        for sample, (height, width) in zip(samples(len(sizes)), sizes, strict=True)
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=8),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_canvas_holds_what_fits_and_refuses_the_first_that_does_not(
    sizes: list[tuple[int, int]], cells: tuple[int, int]
) -> None:
    canvas = (64 * cells[0], 64 * cells[1])
    manifest = sized(sizes)
    outside = [s for s in manifest if s.height > canvas[0] or s.width > canvas[1]]
    if not outside:
        plan = make_plan("voc", "train", manifest, 2, canvas)
        assert plan.canvas == canvas
        return
    with pytest.raises(DatasetError, match=f"^{outside[0].image_uri} is ") as caught:
        make_plan("voc", "train", manifest, 2, canvas)
    # The canvas that the message names holds them all, and one 64 pixels smaller does not.
    height, width = map(int, str(caught.value).split("`canvas=")[1].split("`")[0].split())
    assert make_plan("voc", "train", manifest, 2, (height, width)).mixed_sizes
    assert "into a new store" in str(caught.value)


@settings(deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6))
def test_without_a_canvas_a_split_has_one_coded_size(sizes: list[tuple[int, int]]) -> None:
    manifest = sized(sizes)
    if len({sample.coded_size for sample in manifest}) == 1:
        plan = make_plan("voc", "train", manifest, 2)
        assert plan.canvas == manifest[0].coded_size
        return
    with pytest.raises(DatasetError, match=r"without `canvas=` every picture has one .*holds"):
        make_plan("voc", "train", manifest, 2)


def test_a_canvas_has_sides_that_pictures_are_coded_at() -> None:
    for canvas in ((0, 64), (64, 100), (-64, 64)):
        with pytest.raises(PlanMismatchError, match=f"got {canvas[0]} {canvas[1]}"):
            make_plan("voc", "train", samples(1), 2, canvas)


@settings(deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4),
)
def test_views_are_appended_once_and_move_nobody(
    count: int, size: int, steps: list[tuple[int, bool]]
) -> None:
    """Any sequence of calls that add samples, with the flag or without it."""
    plan = make_plan("cityscapes", "train", samples(count), size)
    for more, flips in steps:
        count += more
        longer = plan.extended(samples(count)).with_views(["hflip"] if flips else [])
        assert longer.rows[: len(plan.rows)].tolist() == plan.rows.tolist()
        assert longer.samples[: len(plan.samples)] == tuple(plan.samples)
        assert (longer.rows[len(plan.rows) :] >= plan.num_rows).all()
        plan = longer
        assert plan.extended(samples(count)).with_views(["hflip"] if flips else []) == plan
        if flips:
            assert len(plan.samples) == 2 * count
    assert [s.sample_id for s in plan.originals] == [s.sample_id for s in samples(count)]
    assert sorted(set(plan.rows.tolist())) == plan.rows.tolist()
    by_row = dict(pairs_of(plan))
    for row, source in zip(plan.rows.tolist(), plan.source_rows(plan.rows).tolist(), strict=True):
        assert by_row[source].view == "original"
        assert by_row[row] == by_row[source].seen_as(by_row[row].view)
    text = from_record(to_json(plan), Location("memory://nothing"), "cityscapes", "train")
    assert pairs_of(text) == pairs_of(plan)
    for num_rows in range(0, plan.num_rows + 1, size):
        covered = plan.up_to(num_rows)
        assert covered.num_rows <= num_rows
        assert all(covered.in_shard(s) == plan.in_shard(s) for s in range(num_rows // size))


def test_a_view_follows_a_mended_picture() -> None:
    plan = make_plan("cityscapes", "train", samples(2), 2).with_views(["hflip"])
    now = samples(2)
    now[1] = replace(now[1], image_bytes=7)
    with pytest.raises(PlanMismatchError, match="s0001 has image_bytes 7, planned 1001"):
        plan.extended(now, mended={"s0001@hflip"})
    mended = plan.extended(now, mended={"s0001", "s0001@hflip"})
    assert [s.image_bytes for s in mended.samples] == [1000, 7, 1000, 7]
