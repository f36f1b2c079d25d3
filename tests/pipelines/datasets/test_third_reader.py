"""A reader that this file alone knows: registered, it is a dataset of every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import latent_store
from latent_store.format.samples import Sample
from pipelines import encode
from pipelines.datasets import registry
from pipelines.datasets.base import DatasetReader
from pipelines.datasets.files import picture_sizes, read_png

SIZES = {"a": (64, 64), "b": (50, 70)}


class Pairs(DatasetReader):
    """Reads `SPLIT/NAME.jpg` with `SPLIT/NAME.png` beside it."""

    dataset_id = "pairs"
    task = "segmentation"
    class_names = ("left", "right")
    label_ids = "pairs"
    canvas = (128, 128)

    def manifest(self, split: str) -> list[Sample]:
        files = self.data_root.sizes(split)
        uris = sorted(uri for uri in files if uri.endswith(".jpg"))
        return [
            Sample(
                sample_id=Path(uri).stem,
                image_uri=uri,
                label_uri=str(Path(uri).with_suffix(".png")),
                height=height,
                width=width,
                image_bytes=files[uri],
            )
            for uri, (height, width) in zip(uris, picture_sizes(self.data_root, uris), strict=True)
        ]

    def read_labels(self, sample: Sample) -> np.ndarray:
        return read_png(self.data_root, sample.label_uri)[1]


def write_pair(path: Path, size: tuple[int, int]) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels_HW = np.zeros(size, np.uint8)
    labels_HW[:, size[1] // 2 :] = 1
    Image.fromarray(labels_HW).save(path.with_suffix(".png"))
    Image.fromarray(np.repeat(100 * labels_HW[..., None], 3, axis=2)).save(path)
    return labels_HW


def test_it_is_encoded_without_an_edit_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    monkeypatch.setitem(registry.READERS, "pairs", Pairs)
    labels = [write_pair(tmp_path / f"root/train/{name}.jpg", size) for name, size in SIZES.items()]
    args = [
        *("--dataset", "pairs", "--data_root", str(tmp_path / "root"), "--split", "train"),
        *("--store", str(tmp_path / "s.zarr"), "--demo_codec", "--psnr", "none"),
    ]
    line = fails(encode.main, [*args, "--year", "2007"])
    assert "--year is a choice of --dataset voc, not of pairs; leave it out" in line
    assert encode.main(args) == 0
    split = latent_store.open(tmp_path / "s.zarr")["pairs/train"]
    reader = split.labels()
    assert split.sample_ids(split.common_rows(reader, split.latents())) == list(SIZES)
    for row, labels_HW in zip(reader.rows, labels, strict=True):
        height, width = labels_HW.shape
        np.testing.assert_array_equal(reader.read([row])[0, :height, :width], labels_HW)
