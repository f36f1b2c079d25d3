"""Stored views: rows of their own beside the originals, and left out wherever nobody asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latent_store
from latent_store import cli
from latent_store.errors import DatasetError
from latent_store.format.plan_files import to_json
from latent_store.storage.location import CONTROL, Location
from latent_store.storage.records import seal_record
from latent_store.storage.seals import CRC32C
from latent_store.store import Split
from latent_store.tools import verify as integrity
from latent_store.tools.verify_streams import check_streams
from pipelines import encode, frequency, reorder
from tests.conftest import (
    CODEC,
    HEIGHT,
    OF_FILE,
    RANKING,
    TRAIN,
    WIDTH,
    TinyStore,
    encode_args,
    without_codec,
)
from tests.latent_store.mutations import unnumbered
from training import train
from training.data.loader import CropLoader
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.networks.network_config import NetworkConfig
from training.tasks.annotations import PixelLabels
from training.tasks.registry import build_network
from training.trainer.checkpoints import save_checkpoint

Fails = Callable[..., str]
FLIPPED_ROWS = list(range(TRAIN, 2 * TRAIN))
"""Two samples a shard divide TRAIN: the views follow without a void row."""


@pytest.fixture(scope="session")
def flipped_root(scene_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The train scenes, with every picture and label mirrored in its file."""
    root = tmp_path_factory.mktemp("flipped")
    for path in scene_root.rglob("train/**/*.png"):
        target = root / path.relative_to(scene_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)
    return root


@pytest.fixture(scope="session")
def viewed_store(tiny_store: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    """The tiny store with the train split's flips appended to everything; do not write to it."""
    url = tmp_path_factory.mktemp("viewed") / "s.zarr"
    shutil.copytree(tiny_store.url, url)
    store = TinyStore(url=url, data_root=tiny_store.data_root, teacher=tiny_store.teacher)
    assert encode.main(encode_args(store, "train", "--views", "hflip")) == 0
    assert reorder.main(ranked_args(store)) == 0
    return store


def ranked_args(store: TinyStore, *more: str) -> list[str]:
    shared = ["--store", str(store.url), "--dataset", "cityscapes", "--split", "train"]
    return [*shared, "--ranking", RANKING, *more]


def codec_args(root: Path, url: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "cityscapes", "--data_root", str(root), "--split", "train"),
        *("--store", str(url), *CODEC, "--samples_per_shard", "2", "--threads", "1"),
        *("--psnr", "none", *more),
    ]


def open_train(store: TinyStore) -> Split:
    return latent_store.open(store.url)["cityscapes/train"]


def objects(url: Path) -> dict[str, bytes]:
    """Returns the chunk objects and receipts of a store: what an append must not touch."""
    paths = (p for p in url.rglob("*") if p.is_file() and ("c" in p.parts or "receipts" in p.parts))
    return {str(path.relative_to(url)): unnumbered(path) for path in paths}


def test_views_are_rows_of_their_own(viewed_store: TinyStore) -> None:
    split = open_train(viewed_store)
    table = split.index.to_pylist()
    assert [row["view"] for row in table] == ["original"] * TRAIN + ["hflip"] * TRAIN
    assert [row["source_row"] for row in table] == list(range(TRAIN)) * 2
    ids = split.sample_ids(range(TRAIN))
    assert split.sample_ids(FLIPPED_ROWS) == [f"{name}@hflip" for name in ids]
    assert split.source_rows([0, TRAIN + 2, 3]).tolist() == [0, 2, 3]
    assert [row["sha256"] for row in table[:TRAIN]] == [row["sha256"] for row in table[TRAIN:]]


def test_a_view_is_the_encoding_of_the_flipped_picture(
    viewed_store: TinyStore, flipped_root: Path, tmp_path: Path
) -> None:
    """The picture is flipped before it is padded, so its padding is on the right again."""
    url = tmp_path / "direct.zarr"
    direct_store = TinyStore(url=url, data_root=flipped_root, teacher=viewed_store.teacher)
    assert encode.main(encode_args(direct_store, "train")) == 0
    split, direct = open_train(viewed_store), open_train(direct_store)
    rows = direct.common_rows()
    assert len(rows) == TRAIN
    for read in (
        lambda split, rows: split.latents().read(rows),
        lambda split, rows: split.latents().column("channel_bits", rows),
        lambda split, rows: split.latents().column("channel_rms", rows),
        lambda split, rows: split.latents().quality(rows)["psnr"],
        lambda split, rows: split.labels().read(rows),
        lambda split, rows: split.teacher().read(rows),
    ):
        np.testing.assert_array_equal(read(split, FLIPPED_ROWS), read(direct, rows))
    for row, own in zip(FLIPPED_ROWS, rows.tolist(), strict=True):
        assert split.latents().y_string(row) == direct.latents().y_string(own)
        assert split.latents().z_string(row) == direct.latents().z_string(own)
    labels = split.labels().read(range(TRAIN))[:, :HEIGHT, :WIDTH]
    mirrored = split.labels().read(FLIPPED_ROWS)
    np.testing.assert_array_equal(mirrored[:, :HEIGHT, :WIDTH], labels[:, :, ::-1])
    assert (mirrored[:, :, WIDTH:] == 255).all()


def test_appending_views_leaves_what_is_there_byte_for_byte(
    tiny_store: TinyStore, viewed_store: TinyStore
) -> None:
    before, after = objects(tiny_store.url), objects(viewed_store.url)
    assert before.items() <= after.items()
    assert len(after) > len(before)
    assert list(integrity.verify(Location(viewed_store.url), deep=check_streams)) == []


def test_views_at_once_or_later_and_with_a_full_last_shard_or_not(
    scene_root: Path, tmp_path: Path
) -> None:
    few = ("--max_samples", "3")
    at_once, later = tmp_path / "once.zarr", tmp_path / "later.zarr"
    assert encode.main(codec_args(scene_root, at_once, *few, "--views", "hflip")) == 0
    assert encode.main(codec_args(scene_root, later, *few)) == 0
    assert encode.main(codec_args(scene_root, later, *few, "--views", "hflip")) == 0
    assert objects(at_once) == objects(later)
    latents = latent_store.open(later)["cityscapes/train"].latents()
    assert latents.rows.tolist() == [0, 1, 2, 4, 5, 6]


def test_running_again_changes_nothing_with_or_without_the_flag(
    viewed_store: TinyStore, capsys: Any
) -> None:
    before = objects(viewed_store.url)
    for more in ((), ("--views", "hflip")):
        capsys.readouterr()
        assert encode.main(encode_args(viewed_store, "train", *more)) == 0
        assert "is there (6 samples and 6 views)" in capsys.readouterr().out
    assert objects(viewed_store.url) == before


@pytest.mark.slow
def test_later_samples_get_their_views_when_these_are_asked_for(
    scene_root: Path, tmp_path: Path
) -> None:
    url = tmp_path / "s.zarr"
    assert encode.main(codec_args(scene_root, url, "--max_samples", "2", "--views", "hflip")) == 0
    assert encode.main(codec_args(scene_root, url, "--max_samples", "4")) == 0
    split = latent_store.open(url)["cityscapes/train"]
    assert split.latents().rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert split.common_rows(split.latents()).tolist() == [0, 1, 4, 5]
    assert encode.main(codec_args(scene_root, url, "--max_samples", "4", "--views", "hflip")) == 0
    split = latent_store.open(url)["cityscapes/train"]
    assert split.source_rows(split.latents().rows).tolist() == [0, 1, 0, 1, 4, 5, 4, 5]
    assert list(integrity.verify(Location(url))) == []


def test_plans_of_before_views_and_canvases_are_read(copied_store: TinyStore, capsys: Any) -> None:
    path = copied_store.url / CONTROL / "cityscapes/train/plan.json"
    record = json.loads(to_json(open_train(copied_store).plan))
    del record["mixed_sizes"]
    for sample in record["samples"]:
        del sample["view"]
    del record[CRC32C]
    path.write_bytes(seal_record(record | {"added_by_a_later_minor": 1}))
    assert open_train(copied_store).common_rows().tolist() == list(range(TRAIN))
    assert encode.main(encode_args(copied_store, "train")) == 0
    assert "everything asked for is there (6 samples)" in capsys.readouterr().out


def test_views_are_left_out_unless_asked_for(
    tiny_store: TinyStore, viewed_store: TinyStore, capsys: Any
) -> None:
    split = open_train(viewed_store)
    readers = (split.labels(), split.latents(), split.ranked(RANKING), split.teacher())
    assert split.common_rows(*readers).tolist() == list(range(TRAIN))
    assert split.common_rows(*readers, views=True).tolist() == list(range(2 * TRAIN))
    lines = []
    for store in (tiny_store, viewed_store):
        assert cli.main(["inspect", str(store.url)]) == 0
        out = capsys.readouterr().out
        (line,) = (x for x in out.splitlines() if "latents/" in x and "6 samples" in x)
        lines.append(line.split("6 samples")[1].removeprefix(" and 6 views"))
    # The means are those of the originals.
    assert lines[0] == lines[1]
    assert "bpp" in lines[0]
    assert "split cityscapes/train: 6 samples and 6 views in 6 shards" in out


@pytest.fixture
def gate_checkpoint(tiny_store: TinyStore, tmp_path: Path) -> Path:
    """A dynamic network whose seeded gate keeps some channels of some pictures."""
    spec = latent_store.open(tiny_store.url).codec()
    shape = {"backbone": "resnet18", "num_classes": 19, "latent_channels": spec.channels}
    torch.manual_seed(3)
    network = build_network(NetworkConfig(selection="dynamic", gate_pool="rms", **shape))
    torch.nn.init.normal_(network.gate.logits.weight, std=3.0)
    path = tmp_path / "dynamic.pt"
    meta = {"kind": "network", "codec_id": spec.codec_id, "codec_identity": spec.identity}
    save_checkpoint(path, network, meta=meta | {"dataset": "x", "class_names": ["road"] * 19})
    return path


@pytest.mark.parametrize("method", ["frequency", "variance"])
def test_rankings_do_not_count_views(
    copied_store: TinyStore,
    viewed_store: TinyStore,
    gate_checkpoint: Path,
    tmp_path: Path,
    method: str,
) -> None:
    url = tmp_path / "viewed.zarr"
    shutil.copytree(viewed_store.url, url)
    found = []
    for store in (copied_store.url, url):
        args = ["--store", str(store), "--dataset", "cityscapes", "--split", "train"]
        args += ["--checkpoint", str(gate_checkpoint), "--method", method]
        assert frequency.main([*args, "--ranking", "again"]) == 0
        opened = latent_store.open(store)
        found.append(opened.ranking(opened.codec().codec_id, "again"))
    assert found[0] == found[1]
    assert found[0].num_samples == TRAIN
    assert len(set(found[0].score)) > 2


def test_the_ranked_copy_has_the_views(viewed_store: TinyStore, capsys: Any) -> None:
    split = open_train(viewed_store)
    ranked = split.ranked(RANKING)
    assert ranked.rows.tolist() == list(range(2 * TRAIN))
    order = ranked.ranking.channels(16)
    natural = split.latents().read(FLIPPED_ROWS, order)
    np.testing.assert_array_equal(ranked.read(FLIPPED_ROWS, 16), natural)
    assert reorder.main(ranked_args(viewed_store)) == 0
    assert "6 samples and 6 views" in capsys.readouterr().out


def test_components_that_are_behind_lack_the_views_and_catch_up(copied_store: TinyStore) -> None:
    """Latents are not asked for, so they and their ranked copy stay as they are: no defect."""
    with_views = encode_args(copied_store, "train", "--views", "hflip")
    assert encode.main(without_codec(with_views)) == 0
    assert reorder.main(ranked_args(copied_store)) == 0
    split = open_train(copied_store)
    assert split.teacher().rows.tolist() == list(range(2 * TRAIN))
    assert split.latents().rows.tolist() == split.ranked(RANKING).rows.tolist()
    rows = split.common_rows(split.latents(), split.teacher(), views=True)
    assert rows.tolist() == list(range(TRAIN))
    assert list(integrity.verify(Location(copied_store.url))) == []
    assert cli.main(["finalize", str(copied_store.url)]) == 0
    assert set(open_train(copied_store).components().values()) == {True}
    assert encode.main(encode_args(copied_store, "train")) == 0
    assert reorder.main(ranked_args(copied_store)) == 0
    split = open_train(copied_store)
    assert split.latents().rows.tolist() == list(range(2 * TRAIN))
    assert split.ranked(RANKING).rows.tolist() == list(range(2 * TRAIN))


def test_a_view_decodes_by_its_id(viewed_store: TinyStore, tmp_path: Path) -> None:
    split, pictures = open_train(viewed_store), []
    name = split.sample_ids([0])[0]
    args = ["decode", str(viewed_store.url), "--split", "cityscapes/train", "--output"]
    for sample in (name, f"{name}@hflip"):
        path = tmp_path / f"{sample}.png"
        assert cli.main([*args, str(path), "--sample", sample]) == 0
        pictures.append(np.asarray(Image.open(path)).astype(int))
        np.testing.assert_array_equal(pictures[-1], split.decode(sample))
    assert pictures[0].shape == pictures[1].shape == (HEIGHT, WIDTH, 3)
    error = np.abs(pictures[0] - pictures[1][:, ::-1]).mean()
    trained = not OF_FILE  # what fresh weights give is no picture
    assert not trained or error < 0.2 * np.abs(pictures[0] - pictures[1]).mean()


def test_a_mended_pictures_view_is_mended_too(
    scene_root: Path, tmp_path: Path, fails: Fails
) -> None:
    root, url = tmp_path / "data", tmp_path / "s.zarr"
    shutil.copytree(scene_root, root)
    image = sorted((root / "leftImg8bit/train/procedural").glob("*.png"))[1]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    args = codec_args(root, url, "--max_samples", "2", "--views", "hflip")
    line = fails(encode.main, args, status=1)
    assert "2 samples of cityscapes/train/labels failed" in line
    image.write_bytes(whole)
    assert encode.main(args) == 0
    assert latent_store.open(url)["cityscapes/train"].latents().rows.tolist() == [0, 1, 2, 3]


def make_source(store: TinyStore, **changed: Any) -> StoreSource:
    opened = latent_store.open(store.url)
    values = {
        "url": str(store.url),
        "split": "cityscapes/train",
        "annotations": PixelLabels(),
        "domain": "latent",
        "codec_id": opened.codec().codec_id,
        "stored": StoredChannels(ranking_id=RANKING, keep=16),
        "teacher_id": opened.teachers()[0],
        "views": True,
    }
    return StoreSource(SourceSpec(**(values | changed)))


def test_training_takes_views_as_samples_of_their_own(viewed_store: TinyStore) -> None:
    source = make_source(viewed_store)
    loader = CropLoader(source, LoaderConfig(batch_size=4, crop=0, workers=0), seed=2)
    batches = list(loader)
    rows = np.concatenate([batch["rows_B"] for batch in batches])
    assert sorted(rows.tolist()) == list(range(2 * TRAIN))
    split = open_train(viewed_store)
    for batch in batches:
        rows = batch["rows_B"].numpy()
        np.testing.assert_array_equal(batch["y_hat_BCHW"], split.ranked(RANKING).read(rows, 16))
        np.testing.assert_array_equal(batch["features_BCHW"], split.teacher().read(rows))
        np.testing.assert_array_equal(batch["labels_BHW"], split.labels().read(rows))
    assert make_source(viewed_store, views=False).rows.tolist() == list(range(TRAIN))


def test_max_samples_counts_pictures_and_takes_their_views(viewed_store: TinyStore) -> None:
    assert make_source(viewed_store, max_samples=2).rows.tolist() == [0, 1, TRAIN, TRAIN + 1]
    assert make_source(viewed_store, max_samples=2, views=False).rows.tolist() == [0, 1]
    assert len(make_source(viewed_store, max_samples=99).rows) == 2 * TRAIN


def test_views_that_are_not_there_are_refused(tiny_store: TinyStore) -> None:
    with pytest.raises(
        DatasetError, match=r"no stored view with labels, .*encode-to-store --views"
    ):
        _ = make_source(tiny_store).rows


def test_train_from_store_trains_on_views(viewed_store: TinyStore, tmp_path: Path) -> None:
    args = [
        *("--store", str(viewed_store.url), "--dataset", "cityscapes", "--views"),
        *("--output", str(tmp_path / "run"), "--init", "scratch", "--aspp_width", "8"),
        *("--transform_init", "fresh", "--backbone", "mobilenet_v2", "--batch_size", "2"),
        *("--crop", "32", "--epochs", "1"),
        *("--workers", "0", "--no-tensorboard", "--device", "cpu", "--val_split", "none"),
        *("--selection", "static", "--mask", RANKING, "--keep", "16", "--max_samples", "2"),
    ]
    assert train.main(args) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    (epoch,) = (record for record in log if record["kind"] == "epoch")
    # Two pictures and their flips are two batches of two.
    assert epoch["step"] == 2
