"""Reading a store: rows and channels, refusals, and what other Zarr readers see."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import latent_store
from latent_store.components.ranked import RankedReader
from latent_store.errors import (
    FormatVersionError,
    IncompleteComponentError,
    IntegrityError,
    MissingComponentError,
    RankingError,
    StoreNotFoundError,
)
from latent_store.format import layout
from latent_store.format.schema import CHANNEL_GROUP
from latent_store.shards import fetching
from latent_store.shards.index import index_key
from latent_store.storage.location import Location, Range
from tests.conftest import HEIGHT, RANKING, TRAIN, VAL, WIDTH, TinyStore

INDEX_ENTRY_BYTES = 16
CRC_BYTES = 4


def open_train(store: TinyStore) -> latent_store.Split:
    return latent_store.open(store.url)["cityscapes/train"]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "latent_store",
            ("torch", "apache_beam", "compressai", "xarray", "dask", "latent_store.storage.lease",
             "latent_store.components.finalize", "latent_store.components.writer"),
        ),
        ("latent_store.cli", ("torch", "apache_beam", "compressai", "xarray", "dask")),
    ],
)  # fmt: skip
def test_importing_the_package_loads_what_reading_needs(
    module: str, unwanted: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=20,
    deadline=None,
)
@given(
    rows=st.lists(st.integers(0, TRAIN - 1), min_size=1, max_size=8),
    channels=st.none() | st.lists(st.integers(0, 191), min_size=1, max_size=5),
)
def test_any_rows_and_channels_are_what_indexing_gives(
    tiny_store: TinyStore, rows: list[int], channels: list[int] | None
) -> None:
    latents = open_train(tiny_store).latents()
    whole = latents.array("y_hat")[...] / latents.spec.y_hat_steps
    expected = whole[rows] if channels is None else whole[rows][:, channels]
    np.testing.assert_array_equal(latents.read(rows, channels), expected)


def test_ranked_channels_are_the_natural_ones_in_order(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    ranked = split.ranked(RANKING)
    order = ranked.ranking.channels(40)
    np.testing.assert_array_equal(ranked.read([3, 1], 40), split.latents().read([3, 1], order))


def test_labels_and_features_read_windows(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    labels, features = split.labels(), split.teacher()
    assert labels.read([0]).shape == (1, 128, 192)
    assert (labels.read([0])[0, HEIGHT:] == 255).all()
    assert (labels.read([0])[0, :, WIDTH:] == 255).all()
    window = (16, 32, 64, 48)
    np.testing.assert_array_equal(labels.read([2], window), labels.read([2])[:, 16:80, 32:80])
    np.testing.assert_array_equal(
        features.read([2], (4, 8, 16, 12)), features.read([2])[:, :, 4:20, 8:20]
    )
    assert features.read([2]).shape == (1, 24, 32, 48)
    assert features.read([2]).dtype == np.float32


def test_the_index_knows_every_sample(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    assert split.index.num_rows == TRAIN
    assert split.index["row"].to_pylist() == list(range(TRAIN))
    assert all(len(digest) == 64 for digest in split.index["sha256"].to_pylist())
    ids = split.sample_ids([0, 5])
    assert split.row_of(ids[1]) == 5
    np.testing.assert_array_equal(split.sizes([0, 5]), [[HEIGHT, WIDTH]] * 2)
    with pytest.raises(StoreNotFoundError, match="no sample 'nobody'"):
        split.row_of("nobody")


def test_the_ledger_accounts_for_every_byte(tiny_store: TinyStore) -> None:
    latents = open_train(tiny_store).latents()
    rows = latents.rows
    ledger = latents.column("channel_bits", rows).sum(axis=1) + latents.column("hyper_bits", rows)
    streams = latents.stream_bytes(rows)
    overhead = 8 * (streams["y"] + streams["z"]) - ledger
    # Two rANS streams, each flushed with 32 to 64 bits.
    assert ((overhead > 64 - 1e-3) & (overhead <= 128)).all()
    np.testing.assert_allclose(overhead, latents.column("overhead_bits", rows), atol=0.05)


def test_xarray_opens_latents_lazily_with_named_dimensions(tiny_store: TinyStore) -> None:
    codec_id = latent_store.open(tiny_store.url).codec().codec_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_zarr(tiny_store.url / "cityscapes/train/latents" / codec_id)
    assert dataset["y_hat"].dims == ("sample", "channel", "latent_y", "latent_x")
    assert dataset["y_hat"].chunks is not None
    latents = open_train(tiny_store).latents()
    np.testing.assert_array_equal(dataset["y_hat"][:TRAIN].values, latents.read(latents.rows))


def test_xarray_opens_the_whole_store_as_a_tree(tiny_store: TinyStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(tiny_store.url, engine="zarr")
    codec_id = latent_store.open(tiny_store.url).codec().codec_id
    for split, count in (("train", TRAIN), ("val", VAL)):
        assert f"/cityscapes/{split}/labels" in tree.groups
        assert f"/cityscapes/{split}/ranked/{codec_id}/{RANKING}" in tree.groups
        assert tree[f"cityscapes/{split}/labels/segmentation"].sizes["sample"] == count


@pytest.mark.parametrize("keep", [1, 16, 17, 32, 100])
def test_ranked_channels_fetch_only_their_chunks(
    tiny_store: TinyStore, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LOCAL_GAP", 0)  # else so small an object comes whole
    reads: list[Range] = []
    read_ranges = Location.read_ranges

    def noted(self: Location, ranges: list[Range]) -> list[bytes | None]:
        reads.extend(part for part in ranges if "/y_hat/c/" in part[0])
        return read_ranges(self, ranges)

    monkeypatch.setattr(Location, "read_ranges", noted)
    ranked = open_train(tiny_store).ranked(RANKING)
    rows = [0, 1, 4]
    for _ in range(2):
        assert ranked.read(rows, keep).shape[1] == keep
    shards = {layout.shard_of(row, 2) for row in rows}
    assert {key.split("/")[-4] for key, _, _ in reads} == set(map(str, shards))
    groups = -(-keep // CHANNEL_GROUP)
    chunks = sum(sum(stored_chunk_bytes(ranked, row)[:groups]) for row in rows)
    index = 2 * (192 // CHANNEL_GROUP) * INDEX_ENTRY_BYTES + CRC_BYTES
    assert sum(stop - start for _, start, stop in reads) == 2 * chunks + len(shards) * index


def stored_chunk_bytes(ranked: RankedReader, row: int) -> list[int]:
    """Returns the stored length of each of a row's chunks, from its shard's index; 0 = fill."""
    shard = ranked.location.read(f"{ranked.group.path}/y_hat/c/{row // 2}/0/0/0")
    groups = 192 // CHANNEL_GROUP
    index = shard[-(2 * groups * INDEX_ENTRY_BYTES + CRC_BYTES) : -CRC_BYTES]
    entries = np.frombuffer(index, dtype="<u8").reshape(2, groups, 2)
    empty = entries[row % 2, :, 0] == np.iinfo(np.uint64).max
    return np.where(empty, 0, entries[row % 2, :, 1]).astype(int).tolist()


def test_unknown_things_are_refused_by_name(tiny_store: TinyStore) -> None:
    store = latent_store.open(tiny_store.url)
    split = store["cityscapes/train"]
    with pytest.raises(StoreNotFoundError, match="it has: cityscapes/train, cityscapes/val"):
        store["cityscapes/test"]
    with pytest.raises(MissingComponentError, match="there is no codec nosuch; give `codec=`"):
        split.latents("nosuch")
    with pytest.raises(RankingError, match=r"no ranking 'gate' \(it has: variance\)"):
        split.ranked("gate")
    with pytest.raises(MissingComponentError, match="features of teacher x, it has: deeplabv3"):
        split.teacher("x")
    with pytest.raises(MissingComponentError, match="row 77 of cityscapes/train is not usable"):
        split.latents().read([77])
    with pytest.raises(RankingError, match=r"`keep=500` is out of range: .* orders 192 channels"):
        split.ranked(RANKING).read([0], 500)
    with pytest.raises(RankingError, match=r"cuts at \[16, 32, 64, 192\], not at 20"):
        split.ranked(RANKING).scalable_string(0, 20)


def test_no_store_and_foreign_stores_are_refused(tmp_path: Any) -> None:
    with pytest.raises(StoreNotFoundError, match="make one with encode-to-store"):
        latent_store.open(tmp_path / "nothing.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(FormatVersionError, match="is a Zarr group but no latent store"):
        latent_store.open(tmp_path / "other.zarr")


def test_a_newer_major_version_is_refused_with_the_remedy(copied_store: TinyStore) -> None:
    group = zarr.open_group(copied_store.url, mode="r+", use_consolidated=False)
    group.attrs.update({"encoding-version": "3.0"})
    with pytest.raises(FormatVersionError, match=r"version 3\.0, this library reads 2\.0; install"):
        latent_store.open(copied_store.url)


def test_a_missing_or_truncated_object_is_seen_at_opening(copied_store: TinyStore) -> None:
    codec_id = latent_store.open(copied_store.url).codec().codec_id
    shard = copied_store.url / f"cityscapes/train/latents/{codec_id}/y_hat/c/1/0/0/0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match=f"has {len(data) - 1} bytes, its receipt says"):
        open_train(copied_store).latents()
    shard.unlink()
    with pytest.raises(IntegrityError, match="y_hat/c/1/0/0/0 is missing"):
        open_train(copied_store).latents()


def test_flipped_bits_are_seen_when_they_are_read(copied_store: TinyStore) -> None:
    split = open_train(copied_store)
    latents = split.latents()
    base = copied_store.url / "cityscapes/train" / latents.key
    stream = base / "bitstream/y_data/c/0/0"
    damaged = bytearray(stream.read_bytes())
    damaged[200] ^= 4
    stream.write_bytes(damaged)
    with pytest.raises(IntegrityError, match="y_data/c/0/0 is another object than its receipt"):
        open_train(copied_store).latents().y_string(0)


def test_an_incomplete_component_is_refused(copied_store: TinyStore) -> None:
    latents = open_train(copied_store).latents()
    group = zarr.open_group(copied_store.url / latents.group.path, mode="r+")
    group.attrs.update({"complete": False})
    with pytest.raises(IncompleteComponentError, match="is incomplete; run encode-to-store"):
        open_train(copied_store).latents()


def test_a_lost_index_names_the_command_that_writes_it(copied_store: TinyStore) -> None:
    path = copied_store.url / index_key("cityscapes/train", "labels")
    path.unlink()
    with pytest.raises(IntegrityError, match=r"lacks its index .*run `latent-store finalize"):
        open_train(copied_store).labels()
    path.write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match=r"is not the one that was written; run .*finalize"):
        open_train(copied_store).labels()


def test_metadata_names_only_core_codecs(tiny_store: TinyStore) -> None:
    core = {"bytes", "blosc", "zstd", "gzip", "transpose", "crc32c", "sharding_indexed"}
    found: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            listed = [node.get("codecs"), node.get("index_codecs")]
            for codec in (codec for part in listed if isinstance(part, list) for codec in part):
                found.add(codec["name"])
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    for path in tiny_store.url.rglob("zarr.json"):
        collect(json.loads(path.read_text()))
    assert found
    assert found <= core
