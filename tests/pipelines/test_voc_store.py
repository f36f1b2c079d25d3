"""Two tasks, one store: segmentation and detection share rows, latents and shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import latent_store
from latent_store import cli
from latent_store.format.plan_files import read_plan
from latent_store.storage.location import Location
from pipelines import encode
from tests.conftest import CODEC
from tests.pipelines.made_voc import OBJECTS, SIZES, made_mask, write_objects, write_voc
from training.tasks.classes import VOC_CLASSES

Fails = Callable[..., str]
SPLIT = "voc2007/trainval"


def args(root: Path, url: Path, task: str, *more: Any) -> list[str]:
    return [
        *("--dataset", "voc", "--voc_task", task, "--year", "2007", "--data_root", str(root)),
        *("--split", "trainval", "--store", str(url), *CODEC, "--psnr", "none"),
        *("--samples_per_shard", "2", "--threads", "1", *map(str, more)),
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store made in either order, with flipped views."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(root)
    found = {}
    for first, second in (("segmentation", "detection"), ("detection", "segmentation")):
        found[first] = root / f"{first}_first.zarr"
        assert encode.main(args(root, found[first], first, "--views", "hflip")) == 0
        assert encode.main(args(root, found[first], second, "--views", "hflip")) == 0
    return found


@pytest.fixture(params=["segmentation", "detection"])
def url(request: Any, stores: dict[str, Path]) -> Path:
    return stores[request.param]


def test_each_task_has_the_rows_of_its_own_list(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]

    def ids(*readers: Any) -> set[str]:
        return set(split.sample_ids(split.common_rows(*readers)))

    assert ids(split.labels()) == {"000001", "000003"}
    assert ids(split.boxes()) == {"000001", "000002", "000003"}
    assert ids(split.latents()) == {"000001", "000002", "000003"}
    assert ids(split.labels(), split.boxes()) == {"000001", "000003"}


def test_boxes_are_half_open_edges_of_the_original_picture(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]
    reader = split.boxes()
    names = ["000002", "000001", "000003"]
    two, one, none = reader.read([split.row_of(name) for name in names])
    assert one.boxes_N4.tolist() == [[10, 20, 60, 80], [0, 0, 150, 100]]
    assert [VOC_CLASSES[label] for label in one.labels_N] == ["car", "person"]
    assert (one.difficult_N.tolist(), one.truncated_N.tolist()) == ([False, True], [True, False])
    np.testing.assert_array_equal(two.boxes_N4, np.float32([[44.70000076293945, 4, 60, 50.5]]))
    assert len(none) == 0
    assert reader.counts([split.row_of(name) for name in names]).tolist() == [1, 2, 0]
    assert reader.class_names == split.labels().class_names == VOC_CLASSES


def test_views_carry_flipped_boxes_and_labels(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]
    assert len(split.common_rows(split.boxes(), views=True)) == 6
    for name, (height, width) in SIZES.items():
        if name == "000004":
            continue
        rows = [split.row_of(name), split.row_of(f"{name}@hflip")]
        plain, flipped = split.boxes().read(rows)
        np.testing.assert_array_equal(flipped.boxes_N4, plain.flipped(width).boxes_N4)
        assert len(flipped) == len(OBJECTS[name])
        if name != "000002":
            plain_HW, flipped_HW = split.labels().read(rows)[:, :height, :width]
            np.testing.assert_array_equal(plain_HW, made_mask(int(name) - 1, (height, width)))
            np.testing.assert_array_equal(flipped_HW, plain_HW[:, ::-1])


def test_a_store_of_two_tasks_verifies_and_tells_absent_rows(url: Path, capsys: Any) -> None:
    assert cli.main(["verify", str(url), "--deep"]) == 0
    assert cli.main(["inspect", str(url)]) == 0
    out = capsys.readouterr().out
    assert "no defects" in out
    labels = next(line for line in out.splitlines() if line.lstrip().startswith("labels"))
    assert "2 samples and 2 views" in labels
    assert "failed" not in out


def test_an_unlisted_row_is_absent_and_no_failure(stores: dict[str, Path], capsys: Any) -> None:
    assert cli.main(["inspect", str(stores["detection"])]) == 0
    out = capsys.readouterr().out
    labels = next(line for line in out.splitlines() if line.lstrip().startswith("labels"))
    assert labels.endswith("2 samples and 2 views, 2 absent")


def test_every_picture_has_its_digest_whichever_task_read_it(url: Path) -> None:
    table = latent_store.open(url)[SPLIT].index
    assert all(len(digest) == 64 for digest in table["sha256"].to_pylist())
    uris = dict(zip(table["sample_id"].to_pylist(), table["boxes_uri"].to_pylist(), strict=True))
    assert uris["000002"] == "VOC2007/Annotations/000002.xml"


def test_xarray_and_dask_read_boxes(url: Path) -> None:
    split = latent_store.open(url)[SPLIT]
    lazy = split.to_xarray(task="detection")
    assert lazy["boxes"].dims == ("sample", "box", "edge")
    array = split.to_dask("boxes", task="detection")
    assert isinstance(array, da.Array)
    np.testing.assert_array_equal(array.compute(), lazy["boxes"].values)
    one = lazy.sel(sample="000001")
    assert one["boxes"].values[: int(one["box_count"])].tolist()[0] == [10, 20, 60, 80]
    assert set(split.to_xarray()["sample"].values) == {"000001", "000003"}
    with xr.open_zarr(url / SPLIT / "boxes") as plain:
        assert int(plain["box_count"].max()) == 2
        assert plain["box_difficult"].dims == ("sample", "box")
    with xr.open_datatree(url, engine="zarr") as tree:
        assert tree[f"{SPLIT}/boxes/boxes"].shape[2] == 4


def test_more_boxes_than_there_is_room_for_widen_the_arrays(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, detected=["000001"])
    url = tmp_path / "s.zarr"
    assert encode.main(args(tmp_path, url, "detection")) == 0
    assert latent_store.open(url)[SPLIT].boxes().max_boxes == 8
    many = [("car", (1 + n, 1, 20 + n, 20), 0, 0) for n in range(9)]
    write_objects(folder / "Annotations/000002.xml", SIZES["000002"], many)
    (folder / "ImageSets/Main/trainval.txt").write_text("000001\n000002\n")
    assert encode.main(args(tmp_path, url, "detection")) == 0
    split = latent_store.open(url)[SPLIT]
    boxes = split.boxes()
    assert boxes.max_boxes == 16
    assert boxes.counts(split.common_rows(boxes)).tolist() == [2, 9]
    assert cli.main(["verify", str(url)]) == 0


def test_a_later_append_needs_no_wider_arrays(tmp_path: Path) -> None:
    folder = write_voc(tmp_path)
    many = [("car", (1 + n, 1, 20 + n, 20), 0, 0) for n in range(9)]
    write_objects(folder / "Annotations/000003.xml", SIZES["000003"], many)
    url = tmp_path / "s.zarr"
    assert encode.main(args(tmp_path, url, "detection", "--max_samples", 1)) == 0
    assert latent_store.open(url)[SPLIT].boxes().max_boxes == 16
    assert len(read_plan(Location(url), "voc2007", "trainval").samples) == 1
