"""Statistics of channels: exact, read once, and in bounded memory on a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import latent_store
from latent_store.storage.location import Location
from latent_store.views.statistics import ChannelSums, channel_statistics, sum_shard
from tests.conftest import CODEC, TinyStore
from tests.latent_store.counted import Fetched
from tests.latent_store.made_latents import SPLIT, write_latents
from tests.latent_store.memory import STATUS, peak_bytes

MIB = 1 << 20


def open_dataset(store: TinyStore) -> xr.Dataset:
    return latent_store.open(store.url)["cityscapes/train"].to_xarray()


def by_channel(y_hat: np.ndarray) -> np.ndarray:
    return y_hat.swapaxes(0, 1).reshape(y_hat.shape[1], -1).astype(np.float64)


def entropy(values: np.ndarray) -> float:
    p = np.unique(values, return_counts=True)[1] / values.size
    return float(-(p * np.log2(p)).sum())


def assert_describes(found: xr.Dataset, y_hat: np.ndarray) -> None:
    values_CP = by_channel(y_hat)
    assert found.attrs["symbols"] == values_CP.shape[1]
    np.testing.assert_allclose(found["mean"], values_CP.mean(1), atol=1e-12)
    np.testing.assert_allclose(found["variance"], values_CP.var(1), atol=1e-9)
    of_integers = [entropy(np.rint(c)) for c in values_CP]
    np.testing.assert_allclose(found["entropy"], of_integers, atol=1e-9)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.corrcoef(values_CP)
    np.testing.assert_allclose(found["correlation"], expected, atol=1e-9)


def test_statistics_are_those_of_all_symbols(tiny_store: TinyStore) -> None:
    dataset = open_dataset(tiny_store)
    found = channel_statistics(dataset)
    assert_describes(found, dataset["y_hat"].values)
    bits = dataset["channel_bits"].values.astype(np.float64).sum(0)
    np.testing.assert_allclose(found["ledger"], bits / found.attrs["symbols"])
    # Coding symbols with a scale of their own beats one table of the whole channel, once trained.
    if CODEC == ["--demo_codec"]:
        assert float(found["ledger"].sum()) < float(found["entropy"].sum())


def test_some_channels_of_some_samples_keep_their_numbers(tiny_store: TinyStore) -> None:
    some = open_dataset(tiny_store).isel(sample=slice(1, 4), channel=[40, 7, 99])
    found = channel_statistics(some)
    assert found["channel"].values.tolist() == [40, 7, 99]
    assert_describes(found, some["y_hat"].values)


def test_canvas_beyond_a_picture_does_not_count(tiny_store: TinyStore) -> None:
    dataset = open_dataset(tiny_store)
    coded = np.full(dataset.sizes["sample"], 64)
    found = channel_statistics(dataset.assign_coords(coded_height=("sample", coded)))
    assert_describes(found, dataset["y_hat"].values[:, :, :4])


@settings(deadline=None)
@given(
    y_hat=hnp.arrays(np.int16, st.tuples(st.integers(2, 5), st.just(3), st.just(2), st.just(2))),
    cut=st.integers(1, 4),
)
def test_sums_of_parts_are_the_sums_of_the_whole(y_hat: np.ndarray, cut: int) -> None:
    bits = np.arange(3 * len(y_hat), dtype=np.float32).reshape(-1, 3)
    grids = np.full((len(y_hat), 2), 2)

    def sums(part: slice) -> ChannelSums:
        return sum_shard(y_hat[part], bits[part], grids[part])

    whole, parts = sums(slice(None)), sums(slice(cut)) + sums(slice(cut, None))
    assert (whole.symbols, whole.low) == (parts.symbols, parts.low) == (4 * len(y_hat), whole.low)
    for name in ("count_CV", "product_CC", "ledger_bits_C"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    values = by_channel(y_hat).astype(np.int64)
    np.testing.assert_array_equal(whole.product_CC, values @ values.T)


def test_every_shard_is_read_once(copied_store: TinyStore, fetched: Fetched) -> None:
    dataset = open_dataset(copied_store)
    fetched.clear()
    channel_statistics(dataset)
    stored = Location(copied_store.url).sizes(f"cityscapes/train/latents/{dataset.codec}")
    wanted = [key for key in stored if "/y_hat/c/" in key or "/channel_bits/c/" in key]
    assert sorted(fetched) == sorted(wanted)
    for key, lengths in fetched.items():
        assert sum(lengths) <= stored[key]


def stripes(row: int) -> np.ndarray:
    """ŷ of one row, 2 MiB: every line of a channel is the same, which compresses at once."""
    line = np.round(4 * np.random.default_rng(row).laplace(size=(16, 1, 256))).astype(np.int16)
    return np.broadcast_to(line, (16, 256, 256))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux's peak memory")
def test_a_worker_smaller_than_the_store_is_enough(tmp_path: Path) -> None:
    limit, rows = 320 * MIB, 200
    write_latents(
        tmp_path / "large.zarr",
        stripes,
        channels=16,
        counts=(rows,),
        samples_per_shard=8,
        size=(4096, 4096),
        dtype="int16",
    )
    dataset = latent_store.open(tmp_path / "large.zarr")[SPLIT].to_xarray()
    assert dataset["y_hat"].nbytes > limit
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit=limit, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = sorted(client.scheduler_info()["workers"])
        found = channel_statistics(dataset)
        # A worker that outgrew its limit would have been ended, and another would be there.
        assert sorted(client.scheduler_info()["workers"]) == workers
        assert max(client.run(peak_bytes).values()) < limit
    lines = np.concatenate([stripes(row)[:, 0] for row in range(rows)], axis=1)
    np.testing.assert_allclose(found["variance"], lines.var(1))
    np.testing.assert_allclose(found["entropy"], [entropy(c) for c in lines])
