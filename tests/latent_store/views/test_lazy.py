"""A split as xarray and Dask see it: what the readers read, without void, failed or absent rows."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest

import latent_store
from latent_store.errors import IntegrityError, MissingComponentError, RankingError
from latent_store.storage.location import Location
from latent_store.tools.decode import CodedSample, decode_stream
from latent_store.views import usable_rows
from pipelines import encode
from tests.conftest import HEIGHT, RANKING, TRAIN, WIDTH, TinyStore, encode_args
from tests.latent_store.counted import Fetched
from tests.latent_store.made_latents import SPLIT, write_latents


def open_train(store: TinyStore) -> latent_store.Split:
    return latent_store.open(store.url)["cityscapes/train"]


def numbered(row: int) -> np.ndarray:
    return np.full((16, 4, 8), row, dtype=np.int8)


def write_numbered(url: Path, failed: tuple[int, ...] = (), counts: tuple[int, ...] = (5,)) -> None:
    write_latents(
        url,
        lambda row: None if row in failed else numbered(row),
        channels=16,
        counts=counts,
        samples_per_shard=2,
        size=(60, 100),
        dtype="int8",
    )


def test_a_dataset_holds_what_the_readers_read(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    teacher = split.teacher()
    dataset = split.to_xarray(ranked=RANKING, teacher=teacher.teacher_id)
    latents, ranked, rows = split.latents(), split.ranked(RANKING), split.latents().rows
    expected = {
        "y_hat": (("sample", "channel", "latent_y", "latent_x"), latents.read(rows)),
        "y_hat_ranked": (("sample", "rank", "latent_y", "latent_x"), ranked.read(rows)),
        "cut_bytes": (("sample", "cut"), ranked.cut_bytes(rows)),
        "segmentation": (("sample", "height", "width"), split.labels().read(rows)),
        "features": (("sample", "feature", "feature_y", "feature_x"), teacher.read(rows)),
        "psnr": (("sample",), latents.quality(rows)["psnr"]),
        "bpp": (("sample",), latents.quality(rows)["bpp"]),
    }
    for name in ("channel_bits", "channel_mean", "channel_rms"):
        expected[name] = (("sample", "channel"), latents.column(name, rows))
    for name in ("hyper_bits", "overhead_bits"):
        expected[name] = (("sample",), latents.column(name, rows))
    assert set(dataset.data_vars) == set(expected)
    for name, (dims, values) in expected.items():
        assert dataset[name].dims == dims
        assert dataset[name].dtype == values.dtype
        np.testing.assert_array_equal(dataset[name].values, values)
    assert dataset["sample"].values.tolist() == split.sample_ids(rows)
    assert dataset["ranked_channel"].values.tolist() == list(ranked.ranking.order)
    assert dataset["cut"].values.tolist() == list(ranked.cuts)
    sides = {"original_height": HEIGHT, "original_width": WIDTH, "coded_height": 128}
    for name, side in {**sides, "coded_width": 192}.items():
        assert set(dataset[name].values.tolist()) == {side}


def test_samples_are_found_by_their_id(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    (sample_id,) = split.sample_ids([3])
    y_hat = split.to_xarray()["y_hat"].sel(sample=sample_id, channel=[5, 3])
    assert int(y_hat["row"]) == 3
    np.testing.assert_array_equal(y_hat.values, split.read([3], channels=[5, 3])[0])


def test_a_chunk_is_the_usable_rows_of_one_shard(tmp_path: Path) -> None:
    # Shards of two: rows 0 1 | 2 3 | 4 void | 6 7 | 8 void, of which 1, 2 and 3 fail.
    write_numbered(tmp_path / "made.zarr", failed=(1, 2, 3), counts=(5, 3))
    split = latent_store.open(tmp_path / "made.zarr")[SPLIT]
    dataset = split.to_xarray()
    assert dataset["row"].values.tolist() == [0, 4, 6, 7, 8]
    y_hat = split.to_dask("y_hat")
    assert y_hat.chunks == ((1, 1, 2, 1), (16,), (4,), (8,))
    np.testing.assert_array_equal(y_hat[:, 3, 1, 2].compute(), [0, 4, 6, 7, 8])
    np.testing.assert_array_equal(y_hat[2].compute(), numbered(6))
    np.testing.assert_array_equal(y_hat[[4, 0]].compute(), [numbered(8), numbered(0)])


def test_a_split_without_usable_rows_is_empty(tmp_path: Path) -> None:
    write_numbered(tmp_path / "made.zarr", failed=(0, 1, 2), counts=(3,))
    dataset = latent_store.open(tmp_path / "made.zarr")[SPLIT].to_xarray()
    assert dataset["y_hat"].values.shape == (0, 16, 4, 8)


def test_stored_views_come_only_on_request(copied_store: TinyStore) -> None:
    assert encode.main(encode_args(copied_store, "train", "--views", "hflip")) == 0
    split = open_train(copied_store)
    assert split.to_xarray()["view"].values.tolist() == ["original"] * TRAIN
    both = split.to_xarray(views=True)
    assert both["view"].values.tolist() == ["original"] * TRAIN + ["hflip"] * TRAIN


def test_a_crop_of_features_is_the_readers_window(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    teacher = split.teacher()
    features = split.to_dask("features", teacher=teacher.teacher_id)
    window = teacher.read(split.labels().rows, (4, 8, 16, 12))
    np.testing.assert_array_equal(features[..., 4:20, 8:20].compute(), window)
    np.testing.assert_array_equal(features[1, 7:9, 5, 8:20].compute(), window[1, 7:9, 1])
    np.testing.assert_array_equal(features[1:, [9, 3], 5, 8:20].compute(), window[1:, [9, 3], 1])


def test_ranked_channels_fetch_only_their_chunks(copied_store: TinyStore, fetched: Fetched) -> None:
    dataset = open_train(copied_store).to_xarray(ranked=RANKING)
    fetched.clear()
    first = dataset["y_hat_ranked"].isel(rank=slice(0, 16)).compute()
    assert first.sizes["rank"] == 16
    sizes = Location(copied_store.url).sizes("cityscapes/train/ranked")
    shards = [key for key in sizes if "/y_hat/c/" in key]
    assert sorted(fetched) == sorted(shards)
    # The shard's index and one chunk for each of its two rows.
    assert all(len(lengths) == 3 for lengths in fetched.values())
    assert all(sum(lengths) < 0.8 * sizes[key] for key, lengths in fetched.items())


def test_another_process_opens_the_store_by_its_url(tiny_store: TinyStore, tmp_path: Path) -> None:
    split = open_train(tiny_store)
    pickled = tmp_path / "array.pkl"
    pickled.write_bytes(pickle.dumps(split.to_dask("y_hat")))
    assert pickled.stat().st_size < 20_000
    code = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "array = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print(array[2:5, 7].astype('int64').sum().compute(scheduler='sync'))"
    )
    command = [sys.executable, "-c", code, str(pickled)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == split.read([2, 3, 4], [7]).astype(np.int64).sum()


def test_what_was_written_anew_is_another_array(tmp_path: Path) -> None:
    url = tmp_path / "made.zarr"
    write_numbered(url)
    before = latent_store.open(url)[SPLIT].to_dask("y_hat")
    again = latent_store.open(url)[SPLIT].to_dask("y_hat")
    assert before[0].compute().max() == 0
    shutil.rmtree(url)
    write_latents(
        url,
        lambda row: numbered(row + 1),
        channels=16,
        counts=(5,),
        samples_per_shard=2,
        size=(60, 100),
        dtype="int8",
    )
    after = latent_store.open(url)[SPLIT].to_dask("y_hat")
    assert before.name == again.name != after.name
    assert after[0].compute().max() == 1


def swap_shards(url: Path) -> None:
    """Exchanges two shards of ŷ, which are as long and end in their own checksums."""
    base = url / SPLIT / "latents/made/y_hat/c"
    one, two = (base / f"{shard}/0/0/0" for shard in (1, 2))
    assert one.stat().st_size == two.stat().st_size
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def test_swapped_objects_are_refused_as_the_readers_refuse_them(tmp_path: Path) -> None:
    url = tmp_path / "made.zarr"
    write_numbered(url, counts=(6,))
    opened_before = latent_store.open(url)[SPLIT].to_dask("y_hat")
    swap_shards(url)
    split = latent_store.open(url)[SPLIT]
    views = {
        "before": opened_before,
        "dask": split.to_dask("y_hat"),
        "xarray": split.to_xarray()["y_hat"],
    }
    for view in views.values():
        np.testing.assert_array_equal(view[1].compute(), numbered(1))
        for row in (2, 5):
            with pytest.raises(IntegrityError, match="is another object than its receipt lists"):
                view[row].compute()


def test_a_worker_of_a_cluster_refuses_them_too(tmp_path: Path) -> None:
    url = tmp_path / "made.zarr"
    write_numbered(url, counts=(6,))
    split = latent_store.open(url)[SPLIT]
    y_hat = split.to_xarray()["y_hat"]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as one,
        distributed.Client(one),
    ):
        np.testing.assert_array_equal(y_hat[3].compute(), numbered(3))
        swap_shards(url)
        assert y_hat[1].compute().max() == 1
        with pytest.raises(IntegrityError, match="is another object than its receipt lists"):
            y_hat[2].compute()


def test_a_view_of_what_was_written_anew_since_says_so(tmp_path: Path) -> None:
    url = tmp_path / "made.zarr"
    write_numbered(url)
    stale = pickle.dumps(latent_store.open(url)[SPLIT].to_dask("y_hat"))
    shutil.rmtree(url)
    write_numbered(url, failed=(1,))
    # Another process has nothing open yet.
    usable_rows._open.cache_clear()
    with pytest.raises(IntegrityError, match=r"was written anew since .*; make the view again"):
        pickle.loads(stale)[0].compute()


def test_pictures_decode_from_all_channels_or_some(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    stored = CodedSample(split, *split.sample_ids([2]))

    def decoded(keep: int | None) -> np.ndarray:
        return decode_stream(stored.codec, stored.stream(keep), stored.name).image_HWC

    np.testing.assert_array_equal(split.decode(2), decoded(None))
    kept = split.ranked(RANKING).ranking.channels(16)
    few = split.decode(2, channels=kept)
    assert few.shape == (HEIGHT, WIDTH, 3)
    assert few.dtype == np.uint8
    np.testing.assert_array_equal(few, decoded(16))
    np.testing.assert_array_equal(few, split.decode(2, ranked=RANKING, keep=16))
    np.testing.assert_array_equal(few, split[2].decode(ranked=RANKING, keep=16))
    for wrong in ([192], [-1], range(300)):
        with pytest.raises(MissingComponentError, match="has channels 0 to 191, not"):
            split.decode(2, channels=wrong)
    with pytest.raises(RankingError, match=r"numbers of channels, .* not how many; got 16"):
        split.decode(2, channels=16)
    with pytest.raises(RankingError, match="`ranked=` and `keep=` together"):
        split.decode(2, keep=16)
    with pytest.raises(RankingError, match="1 to 192"):
        split.decode(2, ranked=RANKING, keep=300)


def test_an_unknown_component_is_refused_by_name(tiny_store: TinyStore) -> None:
    split = open_train(tiny_store)
    with pytest.raises(MissingComponentError, match="features of teacher x, it has: deeplabv3"):
        split.to_xarray(teacher="x")
    with pytest.raises(MissingComponentError, match="there is no codec nosuch"):
        split.to_dask("y_hat", "nosuch")


def test_without_its_extra_a_view_names_it(tiny_store: TinyStore) -> None:
    code = (
        "import sys, latent_store\n"
        "print([m for m in ('xarray', 'dask', 'torch') if m in sys.modules])\n"
        "sys.modules['dask'] = sys.modules['torch'] = None\n"
        "split = latent_store.open(sys.argv[1])['cityscapes/train']\n"
        "for view in (split.to_xarray, lambda: split.decode(0)):\n"
        "    try:\n"
        "        view()\n"
        "    except latent_store.LatentStoreError as error:\n"
        "        print(error)"
    )
    command = [sys.executable, "-c", code, str(tiny_store.url)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "[]",
        "dask is not installed: pip install 'latent-store[xarray]'",
        "torch is not installed: pip install 'latent-store[codec]'",
    ]


def test_a_worker_needs_no_xarray_and_no_folder_of_the_clients(
    tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(tiny_store.url).parent)
    split = latent_store.open(Path(tiny_store.url).name)["cityscapes/train"]
    (tmp_path / "sent").write_bytes(pickle.dumps(split.to_dask("y_hat")))
    code = (
        "import pickle, sys\n"
        "sys.modules['xarray'] = None\n"
        "print(pickle.load(open('sent', 'rb')).compute(scheduler='sync').sum())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == [str(split.to_dask("y_hat").compute().sum())]


def test_a_shard_is_one_task(tiny_store: TinyStore) -> None:
    y_hat = open_train(tiny_store).to_dask("y_hat")
    graph = dask.optimize(y_hat)[0].__dask_graph__()
    assert len(graph) == y_hat.numblocks[0] + 1  # and the array that they share
