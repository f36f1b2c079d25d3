"""Comparing rankings: correlations as scipy has them, shared channels counted, codecs apart."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import latent_store
from latent_store.catalogue.rankings import (
    Agreement,
    Ranking,
    compare_orders,
    compare_rankings,
    describe_agreement,
    make_cuts,
    order_channels,
    rankings_path,
    read_order_crc32c,
    read_ranking,
    ties_at_cuts,
    write_ranking,
)
from latent_store.errors import IntegrityError, RankingError
from latent_store.storage import groups, small_groups
from latent_store.storage.location import Location
from latent_store.storage.seals import sealed
from latent_store.views.summary import describe
from tests.conftest import RANKING, TinyStore

SCORES = st.lists(st.integers(0, 6), min_size=3, max_size=30)


def make_ranking(score: list[float], **changes: object) -> Ranking:
    """Returns a ranking by `score`, unless changed."""
    order = order_channels(np.array(score))
    cuts = (2, len(score))
    values = {
        "ranking_id": "made",
        "codec_id": "codec",
        "method": "variance",
        "order": tuple(order.tolist()),
        "cuts": cuts,
        "score": tuple(float(s) for s in score),
        "tied_at_cut": ties_at_cuts(np.array(score), order, cuts),
        "num_samples": 8,
        "dataset": "cityscapes",
        "split": "train",
    }
    return Ranking(**(values | changes))


@given(SCORES, st.integers(0, 2**32 - 1))
def test_correlations_are_scipys_with_ties_averaged(score, seed):
    first = np.array(score, dtype=float)
    second = np.random.default_rng(seed).integers(0, 4, len(score)).astype(float)
    found = compare_orders([first], [second], [2])
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found.spearman is found.kendall is None
        return
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(first, second).statistic, abs=1e-12)


def test_tie_breaks_order_what_the_score_leaves_open():
    score, rising = np.zeros(4), np.arange(4.0)
    found = compare_orders([score, rising], [score, -rising], [1, 4])
    assert found.spearman == pytest.approx(-1)
    assert found.kendall == pytest.approx(-1)
    assert found.shared == {1: 0, 4: 4}


def test_channels_that_only_their_numbers_order_are_no_agreement():
    score = np.array([5.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    swapped = np.array([4.0, 5.0, 0.0, 0.0, 0.0, 0.0])
    by_order = stats.spearmanr(order_channels(score).argsort(), order_channels(swapped).argsort())
    assert compare_orders([score], [swapped], []).spearman < by_order.statistic


def test_shared_channels_are_counted_at_every_cut_of_both():
    first = make_ranking([5, 4, 3, 2, 1], cuts=(1, 2, 5))
    second = make_ranking([5, 3, 4, 1, 2], cuts=(2, 4, 5))
    assert compare_rankings(first, second).shared == {1: 1, 2: 1, 4: 3}
    assert compare_rankings(first, second) == compare_rankings(second, first)


def test_rankings_of_two_codecs_are_not_compared():
    other = make_ranking([1, 2, 3], codec_id="another")
    with pytest.raises(RankingError, match="of another order different things: the same channel"):
        compare_rankings(make_ranking([1, 2, 3]), other)


def test_agreement_is_one_line():
    found = Agreement(spearman=0.98765, kendall=None, shared={16: 15, 32: 30})
    text = "Spearman 0.988, Kendall undefined; agree on 15 of the first 16, 30 of 32"
    assert describe_agreement(found) == text
    assert describe_agreement(dataclasses.replace(found, shared={})) == text.split(";")[0]


def test_agreement_of_halves_is_stored_and_shown(copied_store: TinyStore):
    location = Location(copied_store.url)
    store = latent_store.open(copied_store.url)
    codec_id = store.codec().codec_id
    halves = Agreement(spearman=0.5, kendall=None, shared={2: 1})
    tied = make_ranking([3, 2, 2], codec_id=codec_id, halves=halves)
    write_ranking(location, tied)
    write_ranking(location, make_ranking([1, 2, 3], codec_id=codec_id, ranking_id="other"))
    found = read_ranking(location, codec_id, "made")
    assert found == tied
    assert found.halves == halves
    location.delete_tree(rankings_path(codec_id, RANKING))
    text = describe(store)
    assert "  rankings made and other: Spearman -0.866, Kendall -0.816; agree on" in text
    assert (
        "    both halves of the samples: Spearman 0.500, Kendall undefined; agree on 1 of the"
        in text
    )
    assert "    N = 2: undetermined (2 tied)" in text


def test_rankings_of_other_minor_versions_are_read(copied_store: TinyStore):
    codec_id = latent_store.open(copied_store.url).codec().codec_id
    path = copied_store.url / f"codecs/{codec_id}/rankings/{RANKING}/zarr.json"
    content = json.loads(path.read_text())
    del content["attributes"]["halves"]
    content["attributes"] = sealed(content["attributes"]) | {"from_a_later_version": 1}
    path.write_text(json.dumps(content))
    assert read_ranking(Location(copied_store.url), codec_id, RANKING).halves is None


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_channels_are_ordered_by_score_then_tie_break_then_number(
    counts: list[int], seed: int
) -> None:
    score = np.array(counts, dtype=float)
    breaks = np.random.default_rng(seed).integers(0, 3, len(counts)).astype(float)
    order = order_channels(score, breaks).tolist()
    keys = [(-score[c], -breaks[c], c) for c in order]
    assert keys == sorted(keys)
    assert sorted(order) == list(range(len(counts)))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.data())
def test_a_tie_is_counted_where_a_cut_runs_through_it(counts: list[int], data: Any) -> None:
    cut = data.draw(st.integers(1, len(counts)))
    score = np.array(counts, dtype=float)
    order = order_channels(score)
    tied = ties_at_cuts(score, order, [cut])[cut]
    ranked = score[order]
    through = cut < len(counts) and ranked[cut - 1] == ranked[cut]
    assert tied == (counts.count(int(ranked[cut])) if through else 0)


def test_cuts_end_with_all_channels() -> None:
    assert make_cuts([32, 16, 16], 192) == (16, 32, 192)
    assert make_cuts(None, 64) == (16, 32, 64)
    with pytest.raises(latent_store.LatentStoreError, match=r"\[500\]` is out of range"):
        make_cuts([500], 192)


def test_a_sealed_ranking_without_an_order_is_one_error(tmp_path: Path) -> None:
    location = Location(tmp_path / "s.zarr")
    write_ranking(location, make_ranking([3, 1, 2]))
    path = rankings_path("codec", "made")
    attrs = groups.attrs_of(groups.open_group(location, path))
    values = {name: digest for name, digest in attrs["values"].items() if name != "order"}
    groups.update_attrs(location, path, sealed({**attrs, "values": values}))
    with pytest.raises(IntegrityError, match="rankings/made has no order; derive it again"):
        read_order_crc32c(location, "codec", "made")


def test_objects_of_an_array_have_a_limit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read at once, whatever the array's metadata says of them."""
    location = Location(tmp_path / "s.zarr")
    write_ranking(location, make_ranking([3, 1, 2]))
    assert read_ranking(location, "codec", "made").order == (0, 2, 1)
    monkeypatch.setattr(small_groups, "LARGEST_ARRAY", 2**12)
    for number in range(1, 4):
        location.write(f"{rankings_path('codec', 'made')}/order/c/{number}", bytes(2000))
    with pytest.raises(IntegrityError, match=r"order takes 6\d\d\d bytes, more than the 4096"):
        read_ranking(location, "codec", "made")
