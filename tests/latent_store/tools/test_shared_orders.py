"""One stream for several tasks: what every prefix holds, what it costs, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import latent_store
from latent_store import cli
from latent_store.catalogue.rankings import Ranking, order_channels
from latent_store.errors import RankingError
from latent_store.tools.shared_orders import share_order, shared_cuts
from pipelines import frequency, reorder
from tests.conftest import TinyStore

Fails = Callable[..., str]
CODEC = "codec"


def made(order: list[int], name: str, cuts: list[int], **changes: object) -> Ranking:
    """Returns a ranking of that order."""
    values = {
        "ranking_id": name,
        "codec_id": CODEC,
        "method": "frequency",
        "order": tuple(order),
        "cuts": tuple(cuts),
        "score": tuple(float(-order.index(c)) for c in range(len(order))),
        "tied_at_cut": {},
        "num_samples": 8,
        "dataset": "voc2012",
        "split": "trainval",
    }
    return Ranking(**(values | changes))


@st.composite
def rankings(draw: st.DrawFn) -> list[Ranking]:
    """Draws two to four tasks' rankings of the same channels, with cuts of their own."""
    channels = draw(st.integers(2, 24))
    numbers = list(range(channels))
    found = []
    for task in range(draw(st.integers(2, 4))):
        cuts = draw(st.sets(st.integers(1, channels - 1), max_size=3))
        order = draw(st.permutations(numbers))
        found.append(made(order, f"task{task}", [*sorted(cuts), channels]))
    return found


@given(rankings())
def test_for_every_n_the_first_n_of_all_tasks_are_a_prefix_and_fill_it(tasks):
    shared = share_order(tasks, "shared")
    assert sorted(shared.order) == list(range(len(shared.order)))
    assert tuple(order_channels(*shared.keys)) == shared.order
    for keep in range(1, len(shared.order) + 1):
        wanted = {c for task in tasks for c in task.channels(keep)}
        assert set(shared.channels(len(wanted))) == wanted


@given(rankings())
def test_the_stream_can_be_cut_where_any_task_can_be_cut(tasks):
    shared = share_order(tasks, "shared")
    for task in tasks:
        for keep in task.cuts:
            together = {c for other in tasks for c in other.channels(keep)}
            assert len(together) in shared.cuts
    assert all(first < second for first, second in pairwise(shared.cuts))
    assert all(shared.tied_at_cut[cut] == 0 for cut in shared.cuts)


def test_tasks_are_named_and_equal_tasks_once():
    pair = [made([0, 1], "a", [1, 2]), made([1, 0], "b", [1, 2], task="detection")]
    assert share_order(pair, "shared").task == "segmentation+detection"
    assert share_order([pair[0], made([1, 0], "c", [2])], "shared").task == "segmentation"


def test_one_ranking_or_one_twice_or_two_codecs_are_refused():
    one = made([0, 1], "a", [1, 2])
    for few in ([], [one], [one, one]):
        with pytest.raises(RankingError, match="two tasks or more, each once"):
            share_order(few, "shared")
    other = made([1, 0], "b", [1, 2], codec_id="another")
    with pytest.raises(RankingError, match="a of codec and b of another order different things"):
        share_order([one, other], "shared")


@pytest.fixture
def two_tasks(copied_store: TinyStore) -> TinyStore:
    """A store with two rankings that differ."""
    for name, method in (("tasks-a", "entropy"), ("tasks-b", "random")):
        flags = ["--store", str(copied_store.url), "--dataset", "cityscapes", "--ranking", name]
        assert frequency.main([*flags, "--method", method, "--keep", "16", "32"]) == 0
    return copied_store


def test_share_writes_an_order_that_reorder_latents_takes_and_shows_its_rates(
    two_tasks: TinyStore, capsys: pytest.CaptureFixture[str]
):
    names = ["--rankings", "tasks-a", "tasks-b", "--name", "both"]
    split = ["--split", "cityscapes/train"]
    capsys.readouterr()
    assert cli.main(["share", str(two_tasks.url), *names, *split]) == 0
    printed = capsys.readouterr().out
    store = latent_store.open(str(two_tasks.url))
    codec_id = store.codec().codec_id
    pair = [store.ranking(codec_id, name) for name in ("tasks-a", "tasks-b")]
    shared = store.ranking(codec_id, "both")
    found = shared_cuts(pair, store["cityscapes/train"])
    assert [cut.keep for cut in found] == [16, 32, len(shared.order)]
    assert [cut.together for cut in found] == list(shared.cuts)
    for cut in found:
        assert f"{cut.shared_bpp:.4f}" in printed
        assert cut.common + cut.together == 2 * cut.keep
        assert max(cut.own_bpp.values()) <= cut.shared_bpp < cut.apart_bpp
    latents = store["cityscapes/train"].latents()
    pixels = store["cityscapes/train"].sizes(latents.rows).prod(1).sum()
    bits = latents.column("channel_bits", latents.rows).sum(dtype=np.float64)
    bits += 8.0 * latents.stream_bytes(latents.rows)["z"].sum()
    assert found[-1].shared_bpp == pytest.approx(bits / pixels, rel=1e-6)
    flags = ["--store", str(two_tasks.url), "--dataset", "cityscapes", "--split", "train"]
    assert reorder.main([*flags, "--ranking", "both"]) == 0
    ranked = latent_store.open(str(two_tasks.url))["cityscapes/train"].ranked("both")
    row = int(ranked.rows[0])
    first = latents.read([row])[0][list(shared.channels(shared.cuts[0]))]
    assert np.array_equal(ranked.read([row], shared.cuts[0])[0], first)


def test_share_asks_which_split_and_names_the_rankings_that_there_are(
    two_tasks: TinyStore, fails: Fails
):
    names = ["--rankings", "tasks-a", "tasks-b", "--name", "both"]
    line = fails(cli.main, ["share", str(two_tasks.url), *names])
    assert "has the splits cityscapes/train, cityscapes/val: choose one with --split" in line
    names[2] = "missing"
    line = fails(cli.main, ["share", str(two_tasks.url), *names, "--split", "cityscapes/val"])
    assert "has no ranking 'missing' (it has: tasks-a, tasks-b, variance)" in line
