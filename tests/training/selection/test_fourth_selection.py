"""A way of choosing channels is an object in one file: here is a fourth, and nothing else knows it.

It sends every k-th channel in natural order, as a stream of just these channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latent_store
from latent_store import LatentStore
from latent_store.codec import StreamFile, decode_y, encode_y, read_stream_file
from latent_store.format.schema import CodecSpec
from tests.conftest import TinyStore
from training import evaluate, latency, segment, train
from training.selection.base import Gate, Numbers, Selection
from training.selection.rates import Sent, Size, StoredStreams, StreamReceiver
from training.selection.registry import SELECTIONS
from training.tasks.pictures import read_labels
from training.trainer.checkpoints import load_network

KEEP = 12
CHANNELS = tuple(range(0, 192, 16))


@dataclass(frozen=True, kw_only=True)
class EveryKth(Selection):
    """Every k-th channel."""

    name = "every"
    summary = "every k-th channel"
    required = ("keep",)
    names = ("channels",)

    @classmethod
    def find_channels(cls, flags: Any, store: LatentStore, spec: CodecSpec) -> dict[str, Numbers]:
        return {"channels": tuple(range(0, spec.channels, spec.channels // flags.keep))}

    @classmethod
    def label(cls, flags: Any) -> str:
        return f"every-{flags.keep}"

    def receiver(self, streams: StoredStreams, keep: int | None, gate: Gate) -> StreamReceiver:
        return OwnStreams(streams, self.numbers)

    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        return {"selection": "static", "channels": self.numbers}

    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        return len(self.numbers) if stream.channels == self.numbers else None


class OwnStreams(StreamReceiver):
    """A stream of a network's channels, coded here."""

    def __init__(self, streams: StoredStreams, channels: Numbers) -> None:
        super().__init__(streams)
        self.channels = list(channels)
        self.mask_C = np.isin(np.arange(streams.latents.channels), self.channels)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y_hat_BKHW = self.streams.latents.read(rows, self.channels)
        return y_hat_BKHW, np.tile(self.mask_C, (len(rows), 1))

    def send(self, row: int, size: Size, y_hat_KHW: np.ndarray, mask_C: np.ndarray) -> Sent:
        gaussians, channels = self.streams.gaussians(row, size), self.channels
        symbols_KHW = gaussians.symbols(y_hat_KHW, channels)
        indexes_KHW = gaussians.indexes_CHW[channels]
        string = encode_y(self.tables, symbols_KHW, indexes_KHW)
        return len(string), lambda: gaussians.y_hat(
            decode_y(self.tables, string, indexes_KHW), channels
        )


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTIONS, EveryKth.name, EveryKth)


def arguments(store: TinyStore, output: Path, *more: object) -> list[str]:
    small = (
        "--backbone mobilenet_v2 --init scratch --aspp_width 8 --batch_size 2 --crop 32 --workers 0"
    )
    small += " --transform_init fresh"
    fixed = ["--store", store.url, "--output", output, *small.split(), "--no-tensorboard"]
    return [str(word) for word in (*fixed, "--selection", "every", "--max_steps", 2, *more)]


def test_a_fourth_selection_goes_from_training_to_the_table_and_the_camera(
    tiny_store: TinyStore, tmp_path: Path
) -> None:
    assert train.main(arguments(tiny_store, tmp_path / "run", "--keep", KEEP)) == 0
    checkpoint = tmp_path / "run/last.pt"
    loaded = load_network(checkpoint)
    assert loaded.config.selection == "every"
    assert loaded.config.channels == CHANNELS
    assert "12 channels of 192" in (tmp_path / "run/README.md").read_text()

    where = ["--store", tiny_store.url, "--dataset", "cityscapes", "--split", "val"]
    flags = [*where, "--checkpoint", checkpoint, "--output", tmp_path / "e", "--pictures", 1]
    assert evaluate.main([str(word) for word in flags]) == 0
    (point,) = json.loads((tmp_path / "e/results.json").read_text())["points"]
    assert (point["selection"], point["label"]) == ("every", "every-12")
    assert (point["keep"], point["channels_mean"], point["mask_bpp"]) == (KEEP, KEEP, 0)
    assert point["decoded"] == point["num_samples"]
    assert "every-12" in (tmp_path / "e/report.md").read_text()

    picture = sorted((tiny_store.data_root / "leftImg8bit" / "val").glob("*/*.png"))[0]
    flags = ["--checkpoint", checkpoint, "--image", picture, "--output", tmp_path / "s"]
    assert segment.main([str(word) for word in flags]) == 0
    sent = read_stream_file(next((tmp_path / "s").glob("*.stream")))
    assert sent.channels == CHANNELS
    map_HW = read_labels(next((tmp_path / "s").glob("*_labelTrainIds.png")))
    evaluated_HW = read_labels(next((tmp_path / "e/points").glob("*-maps/000000.png")))
    np.testing.assert_array_equal(map_HW, evaluated_HW)
    y_hat_BCHW = latent_store.open(tiny_store.url)["cityscapes/val"].latents().read([0], CHANNELS)
    with torch.inference_mode():
        logits_BKHW = loaded.network(torch.from_numpy(y_hat_BCHW).float())["logits"]
    expected_HW = logits_BKHW[0].argmax(0)[: map_HW.shape[0], : map_HW.shape[1]]
    np.testing.assert_array_equal(map_HW, expected_HW.numpy())

    flags = [*where, "--checkpoint", checkpoint, "--output", tmp_path / "l", "--repeats", 1]
    assert latency.main([str(word) for word in flags]) == 0
    (timed,) = json.loads((tmp_path / "l/latency.json").read_text())["latencies"]
    assert (timed["kind"], timed["channels"]) == ("every, 12 channels", KEEP)


def test_its_flags_are_checked_like_any_others(
    tiny_store: TinyStore, tmp_path: Path, fails
) -> None:
    line = fails(train.main, arguments(tiny_store, tmp_path / "run"))
    assert "--selection every goes with --keep N, other selections with neither" in line
    line = fails(train.main, arguments(tiny_store, tmp_path / "run", "--keep", 12, "--cuts", 12))
    assert "--cuts goes with --selection any, got --selection every" in line
