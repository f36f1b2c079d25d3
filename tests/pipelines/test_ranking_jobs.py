"""`channel-frequency` and `reorder-latents`: exact counts, ties named, every cut decodable."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import latent_store
from latent_store.codec import codec_from_store, decode_scalable
from latent_store.storage.location import Location
from latent_store.tools.decode import decode_gaussians
from pipelines import frequency, reorder
from pipelines.jobs.counting import half_of
from tests.conftest import RANKING, TRAIN, TinyStore
from training.networks.network_config import NetworkConfig
from training.tasks.registry import build_network
from training.trainer.checkpoints import load_network, save_checkpoint

Fails = Callable[..., str]


def ranking_args(store: TinyStore, *more: str) -> list[str]:
    return ["--store", str(store.url), "--dataset", "cityscapes", *more]


@pytest.fixture
def gate_checkpoint(tiny_store: TinyStore, tmp_path: Path) -> Path:
    """A dynamic network with seeded random weights: its gate decides, if not wisely."""
    spec = latent_store.open(tiny_store.url).codec()
    config = NetworkConfig(
        domain="latent",
        backbone="resnet18",
        num_classes=19,
        selection="dynamic",
        latent_channels=spec.channels,
        gate_pool="rms",
    )
    torch.manual_seed(3)
    network = build_network(config)
    torch.nn.init.normal_(network.gate.logits.weight, std=3.0)
    path = tmp_path / "dynamic.pt"
    meta = {
        "kind": "network",
        "dataset": "cityscapes",
        "codec_id": spec.codec_id,
        "codec_identity": spec.identity,
        "class_names": ["road"] * 19,
    }
    save_checkpoint(path, network, meta=meta)
    return path


def test_frequency_counts_the_gates_decisions(
    copied_store: TinyStore, gate_checkpoint: Path
) -> None:
    args = ranking_args(copied_store, "--checkpoint", str(gate_checkpoint), "--ranking", "gate")
    assert frequency.main(args) == 0
    store = latent_store.open(copied_store.url)
    codec_id = store.codec().codec_id
    ranking = store.ranking(codec_id, "gate")
    latents = store["cityscapes/train"].latents()
    network = load_network(gate_checkpoint).network
    pooled = torch.from_numpy(latents.column("channel_rms", latents.rows))
    with torch.no_grad():
        outputs = [network.gate(row[None]) for row in pooled]
    sounding = torch.from_numpy((latents.read(latents.rows) != 0).any(axis=(2, 3)))
    on = (torch.cat([o.gate_BC for o in outputs]) * sounding).sum(0)
    probability = (torch.cat([o.probability_BC for o in outputs]) * sounding).double().mean(0)
    # The demo codec leaves channels silent; where there are means, none is 0 everywhere.
    assert int(sounding.sum()) > 0
    assert bool(sounding.all()) == (latents.spec.y_hat_steps > 1)
    assert ranking.num_samples == TRAIN
    assert ranking.counts == tuple(int(n) for n in on)
    assert 0 < sum(ranking.counts) < TRAIN * 192
    np.testing.assert_allclose(ranking.mean_probability, probability, atol=1e-9)
    keys = [(-ranking.counts[c], -ranking.mean_probability[c], c) for c in ranking.order]
    assert keys == sorted(keys)


def test_variance_is_that_of_all_values(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    ranking = store.ranking(store.codec().codec_id, RANKING)
    latents = store["cityscapes/train"].latents()
    values = latents.read(latents.rows).astype(np.float64)
    np.testing.assert_allclose(ranking.score, values.var(axis=(0, 2, 3)), atol=1e-6)


def test_halves_agree_as_far_as_their_own_rankings_do(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    ranking = store.ranking(store.codec().codec_id, RANKING)
    split = store["cityscapes/train"]
    latents = split.latents()
    rows = latents.rows
    half = np.array([half_of(sample_id) for sample_id in split.sample_ids(rows)])
    assert 0 < half.sum() < len(half)
    values = latents.read(rows).astype(np.float64)
    scores = [values[half == h].var(axis=(0, 2, 3)) for h in (0, 1)]
    orders = [np.argsort(-score, kind="stable") for score in scores]
    assert set(ranking.halves.shared) == {16, 32, 64}
    for cut, shared in ranking.halves.shared.items():
        assert shared == len(set(orders[0][:cut]) & set(orders[1][:cut]))
    assert ranking.halves.spearman == pytest.approx(_spearman(*scores), abs=1e-3)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    # Silent channels have a variance of exactly 0 in both ways of computing it.
    return float(stats.spearmanr(first.round(6), second.round(6)).statistic)


def test_entropy_and_random_rank_all_channels(
    copied_store: TinyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store = latent_store.open(copied_store.url)
    for method, seed in (("entropy", 0), ("random", 5)):
        args = ranking_args(copied_store, "--method", method, "--ranking", method)
        assert frequency.main([*args, "--seed", str(seed)]) == 0
    said = capsys.readouterr().out
    assert "the last channel kept scores" in said
    assert "  both halves of the samples: Spearman" in said
    codec_id = store.codec().codec_id
    entropy, random = (store.ranking(codec_id, name) for name in ("entropy", "random"))
    latents = store["cityscapes/train"].latents()
    bits = latents.column("channel_bits", latents.rows).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(entropy.score, bits, atol=1e-6)
    assert sorted(random.order) == list(range(192))
    assert random.seed == 5


def test_a_cut_through_a_tie_warns_and_strict_refuses(
    copied_store: TinyStore, fails: Fails, capsys: Any
) -> None:
    args = ranking_args(copied_store, "--method", "variance", "--keep", "191")
    assert frequency.main([*args, "--ranking", "loose"]) == 0
    assert "undetermined (" in capsys.readouterr().out
    line = fails(frequency.main, [*args, "--ranking", "tight", "--strict"])
    assert "the score does not decide every cut of tight (N=191: " in line
    known = latent_store.open(copied_store.url).rankings(
        latent_store.open(copied_store.url).codec().codec_id
    )
    assert known == ["loose", RANKING]


def test_a_copy_that_is_there_is_told(copied_store: TinyStore, capsys: Any) -> None:
    args = ranking_args(copied_store, "--ranking", RANKING, "--split", "train")
    there = (
        "cityscapes/train: everything asked for is there (6 samples); --overwrite makes it again"
    )
    for more, told in (((), True), (("--overwrite",), False), ((), True)):
        capsys.readouterr()
        assert reorder.main([*args, *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (there in lines) == told
        assert any("ranked/" in line and line.endswith(": 6 samples") for line in lines)


def test_a_ranking_is_not_replaced_by_accident(copied_store: TinyStore, fails: Fails) -> None:
    args = ranking_args(copied_store, "--method", "random", "--ranking", RANKING)
    assert "exists with other contents" in fails(frequency.main, args)
    assert frequency.main([*args, "--overwrite"]) == 0
    split = latent_store.open(copied_store.url)["cityscapes/train"]
    with pytest.raises(latent_store.LatentStoreError, match="in another order than ranking"):
        split.ranked(RANKING)
    again = ranking_args(copied_store, "--ranking", RANKING, "--split", "train", "--overwrite")
    assert reorder.main(again) == 0
    ranked = split.ranked(RANKING)
    np.testing.assert_array_equal(ranked.read([0]), split.latents().read([0], ranked.ranking.order))


def test_every_cut_of_every_row_decodes_from_its_prefix(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    split = store["cityscapes/val"]
    latents, ranked = split.latents(), split.ranked(RANKING)
    codec = codec_from_store(store)
    assert ranked.cuts == (16, 32, 64, 192)
    for row, cut in itertools.product(ranked.rows.tolist(), ranked.cuts):
        gaussians = decode_gaussians(codec, latents, row)
        indexes_CHW = gaussians.indexes_CHW
        prefix = ranked.scalable_string(row, cut)
        order = ranked.ranking.order
        decoded = decode_scalable(codec.tables, prefix, indexes_CHW, order, cut)
        y_hat_KHW = gaussians.y_hat(decoded, order[:cut])
        np.testing.assert_array_equal(y_hat_KHW, ranked.read([row], cut)[0])
        ranked.check_symbols(row, decoded, indexes_CHW[list(order[:cut])])
        decoded[0, 0, 0] += 1
        with pytest.raises(latent_store.LatentStoreError, match="symbols of the first"):
            ranked.check_symbols(row, decoded, indexes_CHW[list(order[:cut])])


def test_wrong_inputs_are_named(
    copied_store: TinyStore, teacher_checkpoint: Path, tmp_path: Path, fails: Fails
) -> None:
    args = ranking_args(copied_store, "--ranking", "gate")
    assert "needs --checkpoint" in fails(frequency.main, args)
    for name in ("../../oops", "a/b", "..", "zarr.json"):
        line = fails(frequency.main, [*args, "--method", "random", "--ranking", name])
        assert f"'{name}' cannot be a ranking's name" in line
    line = fails(frequency.main, [*args, "--method", "random", "--keep", "193"])
    assert "--keep [193] is out of range: the codec has 192 channels" in line
    line = fails(frequency.main, [*args, "--checkpoint", str(tmp_path / "none.pt")])
    assert "no checkpoint file at" in line
    line = fails(frequency.main, [*args, "--checkpoint", str(teacher_checkpoint)])
    assert "holds a teacher, but a network is needed" in line
    line = fails(reorder.main, [*args, "--split", "train"])
    assert "has no ranking 'gate' (it has: variance); derive it with channel-frequency" in line
    line = fails(reorder.main, [*args, "--split", "test"])
    assert "has no split cityscapes/test" in line


def test_a_gate_and_a_ranking_of_another_codec_are_refused(
    copied_store: TinyStore, gate_checkpoint: Path, tmp_path: Path, fails: Fails
) -> None:
    """Both codecs have 192 channels: nothing but their identities tells them apart."""
    loaded = load_network(gate_checkpoint)
    meta = loaded.meta | {"codec_identity": loaded.meta["codec_identity"] | {"cdf_sha256": "0" * 8}}
    foreign = tmp_path / "foreign.pt"
    save_checkpoint(foreign, loaded.network, meta=meta)
    args = ranking_args(copied_store, "--ranking", "gate", "--checkpoint", str(foreign))
    assert "give a network of that codec" in fails(frequency.main, args)
    codecs = copied_store.url / "codecs"
    codec_id = latent_store.open(copied_store.url).codec().codec_id
    shutil.copytree(codecs / codec_id, codecs / "another")
    shutil.rmtree(codecs / codec_id / "rankings" / RANKING)
    store = latent_store.open(copied_store.url)
    with pytest.raises(latent_store.LatentStoreError) as caught:
        store.ranking(codec_id, RANKING)
    assert f"ranking '{RANKING}' belongs to codec another, not to {codec_id}" in str(caught.value)


def test_counts_leave_nothing_behind(tiny_store: TinyStore) -> None:
    assert Location(tiny_store.url).sizes(".latent_store/counts") == {}
