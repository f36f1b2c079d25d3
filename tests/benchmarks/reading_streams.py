"""Formats of other people that are made for streaming, each read as its makers say."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from tests.benchmarks.reading_data import Pictures
from tests.benchmarks.reading_peers import BATCH, Peer, What

COLUMNS = {"y_hat": "ndarray:int8:192,64,128", "labels": "ndarray:uint8:1024,2048"}


class StreamPeer(Peer):
    """A format whose own data set shuffles."""

    def __getitem__(self, row: int) -> Any:
        raise TypeError(f"{self.name} is read as a stream, not by row {row}")


def cut(what: What, y_hat: Any, labels: Any) -> list[torch.Tensor]:
    """Returns what is wanted of a sample that was read whole."""
    return [torch.from_numpy(np.array(part)) for part in what.cut(y_hat, labels)]


class LitData(StreamPeer):
    name, needs, raw = "LitData", "litdata", True

    def write(self, pictures: Pictures) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(self.folder), chunk_bytes="64MB")
        for row, (y_hat, labels) in enumerate(pictures):
            writer[row] = {
                "y_hat": np.ascontiguousarray(y_hat),
                "labels": np.ascontiguousarray(labels),
            }
        writer.done()
        writer.merge()

    def batches(self, workers: int) -> Generator[Any]:
        from litdata import StreamingDataLoader, StreamingDataset

        class Cut(StreamingDataset):
            def __getitem__(inner, index: Any) -> Any:
                sample = super().__getitem__(index)
                return cut(self.what, sample["y_hat"], sample["labels"])

        data = Cut(str(self.folder), shuffle=True, drop_last=True)
        loader = StreamingDataLoader(
            data, batch_size=BATCH, num_workers=workers, persistent_workers=True
        )
        while True:
            yield from loader


class MosaicRaw(StreamPeer):
    name, needs, raw = "MosaicML MDS", "streaming", True
    compression: ClassVar[str | None] = None

    def write(self, pictures: Pictures) -> None:
        from streaming import MDSWriter

        options = {"columns": COLUMNS, "compression": self.compression}
        with MDSWriter(out=str(self.folder / "mds"), **options) as writer:
            for y_hat, labels in pictures:
                writer.write({"y_hat": y_hat, "labels": labels})

    def batches(self, workers: int) -> Generator[Any]:
        from streaming import StreamingDataset

        class Cut(StreamingDataset):
            def __getitem__(inner, index: Any) -> Any:
                sample = super().__getitem__(index)
                return cut(self.what, sample["y_hat"], sample["labels"])

        remote, local = self.folder / "mds", self.folder / f"local-{self.what.name}"
        data = Cut(local=str(local), remote=str(remote), shuffle=True, batch_size=BATCH)
        loader = DataLoader(data, batch_size=BATCH, num_workers=workers, persistent_workers=True)
        while True:
            yield from loader


class MosaicZstd(MosaicRaw):
    name, raw, compression = "MosaicML MDS, zstd", False, "zstd"


class WebDataset(StreamPeer):
    name, needs, raw = "WebDataset", "webdataset", True

    def write(self, pictures: Pictures) -> None:
        import webdataset as wds

        with wds.ShardWriter(str(self.folder / "%04d.tar"), maxcount=16, verbose=0) as writer:
            for row, (y_hat, labels) in enumerate(pictures):
                writer.write({"__key__": f"{row:06d}", "y.npy": y_hat, "labels.npy": labels})

    def batches(self, workers: int) -> Generator[Any]:
        import webdataset as wds

        files = sorted(map(str, self.folder.glob("*.tar")))
        data = wds.WebDataset(files, shardshuffle=len(files), nodesplitter=None, empty_check=False)
        data = data.shuffle(4 * BATCH).decode().to_tuple("y.npy", "labels.npy")
        data = data.map(lambda sample: cut(self.what, *sample)).batched(BATCH)
        loader = wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=True)
        while True:
            yield from loader


STREAMS: tuple[type[Peer], ...] = (LitData, MosaicRaw, MosaicZstd, WebDataset)
