"""`latent_store.torch`: a split as PyTorch's datasets, and as the trainer reads it."""

from __future__ import annotations

import doctest
import itertools
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import latent_store
from latent_store.batches.sampling import crop_origin
from latent_store.errors import LatentStoreError
from latent_store.format.boxes import Boxes
from latent_store.store import Split
from latent_store.torch import Dataset, IterableDataset
from tests.conftest import RANKING, TRAIN, TinyStore
from training.data.loader import CropLoader
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.tasks.annotations import PixelLabels

README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(scope="module")
def split(tiny_store: TinyStore) -> Split:
    return latent_store.open(tiny_store.url)["cityscapes/train"]


def test_samples_are_what_the_readers_read(split: Split) -> None:
    columns = ["y_hat", "labels", "features", "channel_bits", "hyper_bits"]
    dataset = Dataset(split, columns, channels=[7, 3])
    assert len(dataset) == TRAIN
    sample = dataset[2]
    row, sample_id = int(split.latents().rows[2]), split.sample_ids([2])[0]
    assert (sample["row"], sample["sample_id"]) == (row, sample_id)
    expected = split.latents().read([row], [7, 3])[0]
    assert sample["y_hat"].dtype == torch.from_numpy(expected).dtype
    np.testing.assert_array_equal(sample["y_hat"], expected)
    np.testing.assert_array_equal(sample["labels"], split.labels().read([row])[0])
    np.testing.assert_array_equal(sample["features"], split.teacher().read([row])[0])
    bits = split.latents().column("channel_bits", [row])[0]
    np.testing.assert_array_equal(sample["channel_bits"], bits)
    assert sample["hyper_bits"].shape == ()
    same = dataset[sample_id]
    assert all(torch.equal(same[name], sample[name]) for name in columns)
    with pytest.raises(IndexError):
        dataset[TRAIN]
    assert [item["row"] for item in dataset] == dataset.rows.tolist()


def test_windows_lie_on_the_grid_and_are_those_of_every_column(split: Split) -> None:
    dataset = Dataset(split, ["y_hat", "labels"], ranked=RANKING, keep=16, crop=64, seed=5)
    windows = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        sample = dataset[1]
        row = sample["row"]
        top, left = crop_origin(5, epoch, row, size=(128, 192), crop=(64, 64))
        windows.add((top, left))
        labels_HW = split.labels().read([row], (top, left, 64, 64))[0]
        np.testing.assert_array_equal(sample["labels"], labels_HW)
        whole_CHW = split.ranked(RANKING).read([row], 16)[0]
        at = (slice(top // 16, top // 16 + 4), slice(left // 16, left // 16 + 4))
        np.testing.assert_array_equal(sample["y_hat"], whole_CHW[:, *at])
    assert len(windows) > 1


def test_batches_are_those_of_the_trainer(tiny_store: TinyStore, split: Split) -> None:
    spec = SourceSpec(
        url=str(tiny_store.url),
        split="cityscapes/train",
        annotations=PixelLabels(),
        domain="latent",
        codec_id=latent_store.open(tiny_store.url).codec().codec_id,
        stored=StoredChannels(ranking_id=RANKING, keep=16),
    )
    config = LoaderConfig(batch_size=2, crop=64, chunk_rows=2, preload_rows=4, workers=0)
    loader = CropLoader(StoreSource(spec), config, seed=3)
    choice = {"ranked": RANKING, "keep": 16, "crop": 64, "seed": 3, "batch_size": 2}
    mine = IterableDataset(split, ["y_hat", "labels"], **choice, chunk_rows=2, preload_rows=4)
    assert len(mine) == len(loader) == 3
    orders = []
    for _ in range(2):
        for ours, theirs in zip(mine, loader, strict=True):
            assert torch.equal(ours["y_hat"], theirs["y_hat_BCHW"])
            assert torch.equal(ours["labels"], theirs["labels_BHW"])
            assert torch.equal(ours["valid_B2"], theirs["valid_B2"])
            orders.append((*ours["sample_ids"],))
    assert len({*orders[0], *orders[1], *orders[2]}) == TRAIN
    assert orders[:3] != orders[3:]


def test_workers_are_spawned_and_forks_are_refused(split: Split) -> None:
    dataset = Dataset(split, "y_hat", channels=[0])
    expected = [item["row"] for item in dataset]
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    assert [row for batch in loader for row in batch["row"].tolist()] == expected
    forked = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context="fork")
    told = (
        rf"cityscapes/train was opened by process {os.getpid()} and is read in \d+, a fork of it, "
        'which would wait for ever: give DataLoader multiprocessing_context="spawn", or '
        "num_workers=0"
    )
    with pytest.raises(LatentStoreError, match=told):
        list(forked)


def test_a_worker_of_several_reads_its_part(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = IterableDataset(split, "hyper_bits", batch_size=1, preload_rows=1, workers=0)
    again = pickle.loads(pickle.dumps(stream))
    found = []
    for number in range(2):
        info = type("Info", (), {"id": number, "num_workers": 2})
        monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda info=info: info)
        again.set_epoch(0)
        found.append([batch["sample_ids"][0] for batch in again])
    assert [len(part) for part in found] == [3, 3]
    assert sorted(itertools.chain(*found)) == split.sample_ids(stream.rows)


def test_refusals(split: Split) -> None:
    for message, columns, choice in (
        ("there is no column 'y'; there are: y_hat, labels", ["y"], {}),
        ("there is no column 'asked for'", [], {}),
        ("`crop=` must be a multiple of 16", ["y_hat"], {"crop": 20}),
        ("`keep=16` counts ranked channels: name `ranked=` too", ["y_hat"], {"keep": 16}),
        ("give one of them", ["y_hat"], {"ranked": RANKING, "channels": [1]}),
        ("has no boxes for cityscapes/train", ["boxes"], {}),
    ):
        with pytest.raises(LatentStoreError, match=re.escape(message)):
            Dataset(split, columns, **choice)
    with pytest.raises(LatentStoreError, match="`batch_size=` must be 1 to 6, the samples of"):
        IterableDataset(split, batch_size=7)
    with pytest.raises(LatentStoreError, match="`worker_kind=` thread or process"):
        IterableDataset(split, batch_size=2, worker_kind="fork")


def test_objects_of_a_window_are_clipped_to_it() -> None:
    boxes = Boxes(
        boxes_N4=np.array([[0, 0, 40, 40], [50, 50, 60, 60], [100, 0, 120, 10]], np.float32),
        labels_N=np.array([1, 2, 3]),
        difficult_N=np.array([False, True, False]),
        truncated_N=np.zeros(3, bool),
    )
    found = boxes.within((32, 16, 32, 48))
    assert found.boxes_N4.tolist() == [[0, 0, 24, 8], [34, 18, 44, 28]]
    assert (found.labels_N.tolist(), found.difficult_N.tolist()) == ([1, 2], [False, True])


def test_the_lines_of_the_readme_run(
    tiny_store: TinyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_store.url, tmp_path / "city.zarr")
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```pycon\n(.*?)```", README.read_text(), re.DOTALL)
    assert text.count("\n>>> ") + text.count("\n... ") < 8
    lines = text.replace('"gate"', f'"{RANKING}"')
    test = doctest.DocTestParser().get_doctest(lines, {}, "README", None, None)
    results = doctest.DocTestRunner().run(test)
    assert (results.failed, results.attempted) == (0, 6)
