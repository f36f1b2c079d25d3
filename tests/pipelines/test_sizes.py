"""Pictures of mixed sizes on a canvas: each row is what a store of its own size would hold."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import latent_store
from latent_store import cli
from latent_store.catalogue.rankings import write_ranking
from latent_store.codec import codec_from_store
from latent_store.components.finalize import finalize
from latent_store.components.reader import ComponentReader
from latent_store.format.plan_files import read_plan
from latent_store.shards import receipts
from latent_store.shards.receipts import StoredObject
from latent_store.storage.location import Location
from latent_store.store import Split
from latent_store.tools.decode import CodedSample, decode_gaussians, decode_stream
from pipelines import encode, frequency, reorder
from pipelines.datasets.cityscapes import Cityscapes
from pipelines.datasets.registry import READERS
from pipelines.scenes.cityscapes_scenes import CityscapesScenes
from tests.conftest import CODEC
from training.data.loader import CropLoader, WholeImages
from training.data.loader_config import LoaderConfig
from training.data.store_source import SourceSpec, StoredChannels, StoreSource
from training.selection.all_channels import WholeStreams
from training.selection.gated import ChosenStreams
from training.selection.ranked import ScalableStreams
from training.selection.rates import StoredStreams
from training.tasks.annotations import PixelLabels

Fails = Callable[..., str]

SIZES = {"alpha": (64, 100), "beta": (100, 64)}
"""City -> height, width: coded at 64x128 and 128x64."""
CANVAS = ("--canvas", "128", "192")
RANKING = "variance"


@pytest.fixture(scope="session")
def size_roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data roots in Cityscapes' layout: one for each size, and `both`; read only."""
    folder = tmp_path_factory.mktemp("sizes")
    for city, (height, width) in SIZES.items():
        size = {"height": height, "width": width}
        CityscapesScenes(train=2, val=0, seed=5, city=city, **size).generate(folder / city)
        shutil.copytree(folder / city, folder / "both", dirs_exist_ok=True)
    return {name: folder / name for name in (*SIZES, "both")}


def args(root: Path, url: Path, *more: object) -> list[str]:
    return [
        *("--dataset", "cityscapes", "--data_root", str(root), "--split", "train"),
        *("--store", str(url), *CODEC, "--samples_per_shard", "2", "--threads", "1"),
        *map(str, more),
    ]


@pytest.fixture(scope="session")
def sized_stores(
    tmp_path_factory: pytest.TempPathFactory, size_roots: dict[str, Path], teacher_checkpoint: Path
) -> dict[str, Path]:
    """One store of each size, and `both` on a canvas, with one ranking; do not write to them.

    The ranking comes from `both`, so that all stores are reordered alike.
    """
    folder = tmp_path_factory.mktemp("sized")
    urls = {name: folder / f"{name}.zarr" for name in size_roots}
    teacher = ("--teacher_checkpoint", teacher_checkpoint)
    for name, url in urls.items():
        canvas = CANVAS if name == "both" else ()
        assert encode.main(args(size_roots[name], url, *teacher, *canvas)) == 0
    shared = ("--dataset", "cityscapes", "--split", "train", "--ranking", RANKING)
    ranked = ["--store", str(urls["both"]), *shared, "--method", "variance", "--keep", "16", "32"]
    assert frequency.main(ranked) == 0
    store = latent_store.open(urls["both"])
    ranking = store.ranking(store.codec().codec_id, RANKING)
    for name, url in urls.items():
        if name != "both":
            write_ranking(Location(url), dataclasses.replace(ranking, num_samples=0))
        assert reorder.main(["--store", str(url), *shared]) == 0
    return urls


def open_split(url: Path) -> Split:
    return latent_store.open(url)["cityscapes/train"]


@pytest.fixture(params=SIZES)
def pair(request: Any, sized_stores: dict[str, Path]) -> tuple[Split, list[int], Split, list[int]]:
    """The split of mixed sizes and a tight one, with the rows of the same pictures in both."""
    mixed, tight = open_split(sized_stores["both"]), open_split(sized_stores[request.param])
    rows = tight.common_rows().tolist()
    return mixed, [mixed.row_of(name) for name in tight.sample_ids(rows)], tight, rows


def in_corner(canvas: np.ndarray, own: np.ndarray, fill: int) -> bool:
    """Tells whether a canvas is another array in its top left corner, and fill beyond."""
    height, width = own.shape[-2:]
    rest = canvas.copy()
    rest[..., :height, :width] = fill
    return np.array_equal(canvas[..., :height, :width], own) and bool((rest == fill).all())


def columns(reader: ComponentReader, rows: list[int], names: list[str]) -> list[np.ndarray]:
    return [reader.array(name)[...][rows] for name in names]


def test_rows_are_those_of_a_tight_store_with_fill_beyond(pair: Any) -> None:
    mixed, theirs, tight, mine = pair
    height, width = tight.plan.canvas
    assert mixed.coded_sizes(theirs).tolist() == [[height, width]] * 2
    assert tight.coded_sizes(mine).tolist() == [[height, width]] * 2
    assert mixed.plan.canvas == (128, 192) != tight.plan.canvas
    for read, fill in (
        (lambda split, rows: split.latents().read(rows), 0),
        (lambda split, rows: split.ranked(RANKING).read(rows), 0),
        (lambda split, rows: split.ranked(RANKING).read(rows, 20), 0),
        (lambda split, rows: split.labels().read(rows), 255),
        (lambda split, rows: split.teacher().read(rows), 0),
    ):
        assert in_corner(read(mixed, theirs), read(tight, mine), fill)


def test_streams_ledger_and_pooled_values_are_the_pictures_own(pair: Any) -> None:
    mixed, theirs, tight, mine = pair
    names = "channel_bits channel_mean channel_rms hyper_bits overhead_bits bitstream/y_crc32c"
    for one, other in zip(
        columns(mixed.latents(), theirs, names.split()),
        columns(tight.latents(), mine, names.split()),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    for row, own in zip(theirs, mine, strict=True):
        assert mixed.latents().y_string(row) == tight.latents().y_string(own)
        assert mixed.latents().z_string(row) == tight.latents().z_string(own)
        for cut in tight.ranked(RANKING).cuts:
            prefix = mixed.ranked(RANKING).scalable_string(row, cut)
            assert prefix == tight.ranked(RANKING).scalable_string(own, cut)


def test_rates_count_original_pixels_and_real_bytes(pair: Any) -> None:
    mixed, theirs, _, _ = pair
    latents = mixed.latents()
    pixels = mixed.sizes(theirs).prod(axis=1)
    assert pixels.tolist() in ([64 * 100] * 2, [100 * 64] * 2)
    strings = [len(latents.y_string(row)) + len(latents.z_string(row)) for row in theirs]
    bpp = 8 * np.array(strings) / pixels
    np.testing.assert_allclose(latents.quality(theirs)["bpp"], bpp, rtol=1e-12)


def test_measured_rates_and_inputs_do_not_depend_on_the_canvas(pair: Any) -> None:
    mixed, theirs, tight, mine = pair
    codec = codec_from_store(mixed.store)
    size = tight.plan.canvas
    even = np.arange(codec.spec.channels) % 2 == 0

    def received(split: Split, rows: list[int]) -> list[Any]:
        latents, ranked = split.latents(), split.ranked(RANKING)
        streams = StoredStreams(codec=codec, latents=latents, ranked=ranked)
        receivers = (
            WholeStreams(streams),
            ScalableStreams(streams, ranked.ranking.channels(16)),
            ChosenStreams(streams, lambda rows: np.tile(even, (len(rows), 1))),
        )
        return [receiver.receive(rows, size) for receiver in receivers]

    for one, other in zip(received(mixed, theirs), received(tight, mine), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
        assert all(rate.decoded for rate in one[1])


@pytest.mark.parametrize("keep", [16, None])
def test_pictures_decode_at_their_own_size(pair: Any, keep: int | None) -> None:
    mixed, theirs, tight, mine = pair
    for name in tight.sample_ids(mine):
        samples = [CodedSample(split, name, None, RANKING) for split in (mixed, tight)]
        one, other = (decode_stream(s.codec, s.stream(keep), name) for s in samples)
        np.testing.assert_array_equal(one.image_HWC, other.image_HWC)
        assert one.image_HWC.shape[:2] in SIZES.values()
        assert (one.num_bytes, one.bpp) == (other.num_bytes, other.bpp)
    grid = tuple(n // 16 for n in tight.plan.canvas)
    indexes = decode_gaussians(
        codec_from_store(mixed.store), mixed.latents(), theirs[0]
    ).indexes_CHW
    assert indexes.shape[1:] == grid


def source(url: Path, **changed: Any) -> StoreSource:
    store = latent_store.open(url)
    values = {
        "url": str(url),
        "split": "cityscapes/train",
        "annotations": PixelLabels(),
        "domain": "latent",
        "codec_id": store.codec().codec_id,
        "teacher_id": store.teachers()[0],
        "stored": StoredChannels(pooled="rms"),
    }
    return StoreSource(SourceSpec(**(values | changed)))


@pytest.mark.parametrize("cache_mb", [0, 64])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"stored": StoredChannels(ranking_id=RANKING, keep=16, pooled="rms")},
        {"domain": "pixel", "teacher_id": None},
    ],
    ids=["natural", "ranked", "pixel"],
)
def test_a_networks_input_is_the_same_for_any_canvas(
    size_roots: dict[str, Path],
    sized_stores: dict[str, Path],
    changed: dict[str, Any],
    cache_mb: int,
) -> None:
    own = {}
    for city in SIZES:
        images = WholeImages(source(sized_stores[city], cache_mb=cache_mb, **changed))
        own |= {batch["sample_ids"][0]: batch for batch in images}
    found = list(WholeImages(source(sized_stores["both"], cache_mb=cache_mb, **changed)))
    assert len(found) == len(own) == 4
    for batch in found:
        expected = own[batch["sample_ids"][0]]
        assert batch.keys() == expected.keys()
        for name in batch.keys() - {"rows_B", "batch_rows", "sample_ids"}:
            # The stride of features is one number for all.
            values = (torch.as_tensor(part[name]) for part in (batch, expected))
            assert torch.equal(*values), name


def test_batches_hold_one_coded_size_and_crops_stay_inside(sized_stores: dict[str, Path]) -> None:
    config = LoaderConfig(batch_size=2, crop=96, workers=0)
    batches = list(CropLoader(source(sized_stores["both"]), config, seed=1))
    shapes = sorted(tuple(batch["labels_BHW"].shape[1:]) for batch in batches)
    assert shapes == [(64, 96), (96, 64)]
    for batch in batches:
        height, width = batch["labels_BHW"].shape[1:]
        assert batch["y_hat_BCHW"].shape[2:] == (height // 16, width // 16)
        assert batch["features_BCHW"].shape[2:] == (height // 4, width // 4)


def test_a_mixed_store_verifies_and_is_described(
    sized_stores: dict[str, Path], capsys: Any
) -> None:
    assert cli.main(["verify", str(sized_stores["both"]), "--deep"]) == 0
    assert cli.main(["inspect", str(sized_stores["both"])]) == 0
    out = capsys.readouterr().out
    assert "no defects" in out
    assert "split cityscapes/train: 4 samples in 2 shards of 2, on a canvas of 128x192" in out


def test_symbols_beyond_a_picture_are_a_defect(
    sized_stores: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    url = tmp_path / "s.zarr"
    shutil.copytree(sized_stores["both"], url)
    location, key = Location(url), open_split(url).latents().key
    group = zarr.open_group(url, path=f"cityscapes/train/{key}", use_consolidated=False)
    group["y_hat"][0, 5, -1, -1] = 1
    receipt = receipts.read_receipt(location, "cityscapes/train", key, 0)
    changed = {}
    for name, listed in receipt.objects.items():
        changed[name] = StoredObject.of(location.read(name), listed.inner_chunks)
    sealed = dataclasses.replace(receipt, objects=changed).to_json()
    location.write(receipts.receipt_key("cityscapes/train", key, 0), sealed)
    finalize(location, "cityscapes/train", key)
    assert cli.main(["verify", str(url)]) == 0
    assert cli.main(["verify", str(url), "--deep"]) == 1
    assert f"{key} row 0: its y string does not decode to its y_hat" in capsys.readouterr().out


def test_without_a_canvas_one_size_is_asked_for(
    size_roots: dict[str, Path], tmp_path: Path, fails: Fails
) -> None:
    url = tmp_path / "s.zarr"
    line = fails(encode.main, args(size_roots["both"], url))
    assert "beta_000000_000019_leftImg8bit.png is 100x64 (height x width)" in line
    assert "the split is coded at 64x128: without --canvas every picture has one size" in line
    assert "encode into a new store with --canvas 128 128, which holds all" in line
    for bad in (("100", "192"), ("0", "64"), ("-64", "64")):
        assert "--canvas must be " in fails(
            encode.main, args(size_roots["both"], url, "--canvas", *bad)
        )
    line = fails(encode.main, args(size_roots["both"], url, "--canvas", 64, 192))
    assert "coded at 128x64, larger than the canvas of 64x192" in line
    assert "encode into a new store with --canvas 128 192" in line
    assert not url.exists()


def test_a_stores_canvas_stays(
    size_roots: dict[str, Path], tmp_path: Path, fails: Fails, capsys: Any
) -> None:
    url = tmp_path / "s.zarr"
    few = ("--psnr", "none", "--max_samples", 1)
    assert encode.main(args(size_roots["both"], url, *few, "--canvas", 64, 128)) == 0
    assert read_plan(Location(url), "cityscapes", "train").canvas == (64, 128)
    line = fails(encode.main, args(size_roots["both"], url, *CANVAS))
    assert "the store's plan has a canvas of 64x128 (height x width), --canvas is 128 192" in line
    line = fails(encode.main, args(size_roots["both"], url))
    assert "larger than the canvas of 64x128; encode into a new store with --canvas 128" in line
    capsys.readouterr()
    assert encode.main(args(size_roots["both"], url, *few)) == 0
    assert "everything asked for is there (1 samples)" in capsys.readouterr().out


def test_a_canvas_lets_smaller_pictures_into_a_store_of_one_size(
    size_roots: dict[str, Path], tmp_path: Path, fails: Fails
) -> None:
    root = tmp_path / "data"
    CityscapesScenes(train=1, val=0, height=64, width=64, seed=1, city="gamma").generate(root)
    shutil.copytree(size_roots["alpha"], root, dirs_exist_ok=True)
    url = tmp_path / "s.zarr"
    assert encode.main(args(root, url, "--psnr", "none", "--max_samples", 2)) == 0
    line = fails(encode.main, args(root, url))
    assert line.endswith("encode with --canvas 64 128, which holds all")
    assert encode.main(args(root, url, "--psnr", "none", "--canvas", 64, 128)) == 0
    split = open_split(url)
    assert split.coded_sizes(split.common_rows()).tolist() == [[64, 128]] * 2 + [[64, 64]]


def test_a_reader_may_know_a_canvas_that_holds_its_dataset(
    size_roots: dict[str, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    class Roomy(Cityscapes):
        canvas = (256, 256)

    monkeypatch.setitem(READERS, "cityscapes", Roomy)
    dry = ("--dry_run",)
    assert encode.main(args(size_roots["both"], tmp_path / "s.zarr", *dry)) == 0
    assert "4 samples of 2 sizes, on a canvas of 256x256" in capsys.readouterr().out
    assert encode.main(args(size_roots["both"], tmp_path / "s.zarr", *dry, *CANVAS)) == 0
    assert "4 samples of 2 sizes, on a canvas of 128x192" in capsys.readouterr().out
