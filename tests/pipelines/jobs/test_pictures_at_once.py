"""A worker has as many pictures under way as it has cores, and writes what one at a time would."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latent_store
from latent_store.components import base as component
from latent_store.format.samples import Sample
from latent_store.storage import groups
from latent_store.storage.location import Location
from pipelines import encode
from pipelines.jobs import encoding
from pipelines.jobs.component_job import finished_receipts
from tests.conftest import CODEC
from tests.pipelines.datasets.test_own_reader import SIZE, Halves
from tests.pipelines.made_voc import write_picture
from tests.pipelines.test_encode import codec_args, contents, images_of, own_root

__all__ = ["own_root"]


def with_threads(count: int, words: list[str]) -> list[str]:
    words = list(words)
    words[words.index("--threads") + 1] = str(count)
    return words


def test_the_store_is_that_of_one_at_a_time(own_root: Path, tmp_path: Path) -> None:
    images_of(own_root)[1].write_bytes(b"no picture")
    more = ("--samples_per_shard", "4", "--max_failures", "1", "--psnr", "sample")
    for count in (1, 3):
        words = codec_args(own_root, tmp_path / f"{count}.zarr", "val", *more)
        assert encode.main(with_threads(count, words)) == 0
    assert contents(tmp_path / "3.zarr") == contents(tmp_path / "1.zarr")


def test_pictures_are_under_way_together(
    scene_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, together = encoding.read_picture, threading.Barrier(2)

    def meet(*args: Any) -> Any:
        together.wait(60)  # Alone it would wait for ever.
        assert torch.get_num_threads() == 1
        return read(*args)

    monkeypatch.setattr(encoding, "read_picture", meet)
    assert encode.main(with_threads(2, codec_args(scene_root, tmp_path / "s.zarr"))) == 0


class Single(Halves):
    """An archive, say, whose place is one for all."""

    busy = threading.Lock()

    def read_labels(self, sample: Sample) -> np.ndarray:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("two at a time")
        try:
            time.sleep(0.02)
            return super().read_labels(sample)
        finally:
            self.busy.release()


def test_a_reader_is_asked_by_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for number in range(4):
        write_picture(folder / f"{number}.jpg", number, SIZE)
    words = ["--dataset", f"{__name__}:Single", "--data_root", str(tmp_path / "data")]
    words += ["--split", "train", "--store", str(tmp_path / "s.zarr"), "--threads", "4", *CODEC]
    assert encode.main(words) == 0


def test_a_rerun_goes_on_and_receipts_tell_what_wrote_each_shard(
    own_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = Location(tmp_path / "s.zarr"), "cityscapes/val"
    words = codec_args(own_root, tmp_path / "s.zarr")
    with monkeypatch.context() as elsewhere:  # Of another torch its name is all that is told.
        elsewhere.setattr(torch, "__version__", "1.0+other")
        assert encode.main([*with_threads(1, words), "--max_samples", "2"]) == 0
    latents = latent_store.open(url.url)[name].latents().key
    # As an earlier release left it, which kept to it.
    groups.update_attrs(url, f"{name}/{latents}", {"encoder_threads": 2})
    assert encode.main(with_threads(2, words)) == 0
    device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    for key in ("labels", latents):
        told = finished_receipts(url, name, key)
        assert {shard: receipt.written_by for shard, receipt in told.items()} == {
            0: {"torch": "1.0+other", "device": device, "threads": 1},
            1: {"torch": str(torch.__version__), "device": device, "threads": 1},
        }
    assert component.open_component(url, name, latents).attrs["complete"]
