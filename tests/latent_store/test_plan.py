"""The shard plan: rows are settled once, and a changed data root is refused by name."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_store.errors import DatasetError, PlanMismatchError
from latent_store.plan import Sample, ShardPlan, make_plan


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


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 30))
def test_an_append_starts_at_a_new_shard_and_moves_nobody(first: int, size: int, more: int) -> None:
    plan = make_plan("cityscapes", "train", samples(first), size)
    longer = plan.extended(samples(first + more))
    assert longer.rows[:first] == plan.rows
    assert len(set(longer.rows)) == first + more
    assert all(row >= plan.num_rows for row in longer.rows[first:])
    shards = range(longer.num_shards)
    pairs = [pair for shard in shards for pair in longer.in_shard(shard)]
    assert pairs == list(zip(longer.rows, longer.samples, strict=True))


def test_a_plan_survives_its_persisted_form() -> None:
    plan = make_plan("cityscapes", "train", samples(5), 2)
    assert ShardPlan.from_json(plan.to_json()) == plan


def test_the_first_difference_of_a_changed_data_root_is_named() -> None:
    plan = make_plan("cityscapes", "train", samples(3), 2)
    now = samples(3)
    now[1] = dataclasses.replace(now[1], image_bytes=7)
    with pytest.raises(PlanMismatchError, match="s0001 has image_bytes 7, planned 1001"):
        plan.extended(now)
    with pytest.raises(PlanMismatchError, match="s0000 is gone"):
        plan.extended(now[1:])


def test_a_failed_sample_may_have_been_mended() -> None:
    plan = make_plan("cityscapes", "train", samples(3), 2)
    now = samples(3)
    now[1] = dataclasses.replace(now[1], image_bytes=7)
    assert plan.extended(now, mended={"s0001"}).samples[1].image_bytes == 7


def test_bad_manifests_are_refused() -> None:
    with pytest.raises(DatasetError, match="'s0000' occurs twice"):
        make_plan("cityscapes", "train", samples(1) + samples(1), 2)
    with pytest.raises(DatasetError, match="cityscapes/train has no samples"):
        make_plan("cityscapes", "train", [], 2)
    other = dataclasses.replace(samples(2)[1], height=70)
    with pytest.raises(DatasetError, match=r"70x100 \(height x width\), but the split is coded at"):
        make_plan("cityscapes", "train", [samples(1)[0], other], 2)
    with pytest.raises(PlanMismatchError, match="at least 1, got 0"):
        make_plan("cityscapes", "train", samples(1), 0)
