"""What else users keep latents and labels in, each read as its makers say: a sample at a time, by
`DataLoader` and its processes."""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import urllib.request
from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.reading_data import CODEC, Pictures
from tests.latent_store.made_latents import SPLIT

Sample = tuple[torch.Tensor, torch.Tensor]
BATCH = 8


@dataclass(frozen=True)
class What:
    """What is read of each sample.

    Attributes:
        name: Of the column.
        keep: Channels, the most important first.
        crop: Side of a random crop in pixels; 0 for whole pictures.
    """

    name: str
    keep: int = 192
    crop: int = 0

    def window(self) -> tuple[slice, slice]:
        """Returns a random crop's rows and columns in latent positions, or all."""
        if not self.crop:
            return slice(None), slice(None)
        side = self.crop // 16
        top, left = int(torch.randint(64 - side + 1, ())), int(torch.randint(128 - side + 1, ()))
        return slice(top, top + side), slice(left, left + side)

    def cut(self, y_hat_CHW: Any, labels_HW: Any) -> tuple[Any, Any]:
        """Returns what is wanted of a sample; arrays on disk are read no further."""
        rows, columns = self.window()
        pixels = [slice(s.start and 16 * s.start, s.stop and 16 * s.stop) for s in (rows, columns)]
        return y_hat_CHW[: self.keep, rows, columns], labels_HW[*pixels]


FULL, RANKED, CROPS = (
    What("full"),
    What("16 ranked channels", keep=16),
    What("crops of 256", crop=256),
)


class Peer(Dataset[Sample]):
    """A format: written once, and read a sample at a time.

    Attributes:
        name: As the table has it.
        needs: The package that it needs.
        raw: Whether it keeps what it was given uncompressed.
    """

    name: ClassVar[str]
    needs: ClassVar[str] = "torch"
    raw: ClassVar[bool] = False

    def __init__(self, folder: Path, count: int, what: What = FULL) -> None:
        self.folder, self.count, self.what = folder, count, what

    def __len__(self) -> int:
        return self.count

    @abstractmethod
    def write(self, pictures: Pictures) -> None:
        """Writes all pictures."""

    @abstractmethod
    def __getitem__(self, row: int) -> Sample:
        """Reads what is wanted of a sample."""

    def batches(self, workers: int) -> Generator[Any]:
        """Yields shuffled batches for ever."""
        # Forked workers of a process that has threads may deadlock.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        loader = DataLoader(
            self,
            batch_size=BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=True,
            multiprocessing_context=context,
        )
        while True:
            yield from loader


class TorchFiles(Peer):
    name, raw = ".pt files", True

    def write(self, pictures: Pictures) -> None:
        for row, sample in enumerate(pictures):
            torch.save(
                tuple(map(torch.from_numpy, map(np.ascontiguousarray, sample))), self._path(row)
            )

    def __getitem__(self, row: int) -> Sample:
        mapped = self.what is not FULL
        y_hat, labels = torch.load(self._path(row), mmap=mapped, weights_only=True)
        return tuple(part.clone() if mapped else part for part in self.what.cut(y_hat, labels))

    def _path(self, row: int) -> Path:
        return self.folder / f"{row}.pt"


class NumpyFiles(Peer):
    name, raw = ".npy files", True

    def write(self, pictures: Pictures) -> None:
        for row, (y_hat, labels) in enumerate(pictures):
            np.save(self.folder / f"{row}.y.npy", y_hat)
            np.save(self.folder / f"{row}.labels.npy", labels)

    def __getitem__(self, row: int) -> Sample:
        mode = None if self.what is FULL else "r"
        parts = (np.load(self.folder / f"{row}.{n}.npy", mode) for n in ("y", "labels"))
        return tuple(torch.from_numpy(np.array(part)) for part in self.what.cut(*parts))


class ZippedFiles(Peer):
    name = ".npz files"

    def write(self, pictures: Pictures) -> None:
        for row, (y_hat, labels) in enumerate(pictures):
            np.savez_compressed(self.folder / f"{row}.npz", y_hat=y_hat, labels=labels)

    def __getitem__(self, row: int) -> Sample:
        with np.load(self.folder / f"{row}.npz") as file:
            cut = self.what.cut(file["y_hat"], file["labels"])
        return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in cut)


class PlainZarr(Peer):
    name = "zarr-python, a chunk a sample"

    def write(self, pictures: Pictures) -> None:
        group = zarr.create_group(self.folder / "plain.zarr")
        arrays: dict[int, zarr.Array] = {}
        for row, sample in enumerate(pictures):
            for part, values in enumerate(sample):
                if part not in arrays:
                    arrays[part] = group.create_array(
                        str(part),
                        shape=(pictures.count, *values.shape),
                        chunks=(1, *values.shape),
                        dtype=values.dtype,
                    )
                arrays[part][row] = values

    def __getitem__(self, row: int) -> Sample:
        if not hasattr(self, "_arrays"):
            group = zarr.open_group(self.folder / "plain.zarr", mode="r")
            self._arrays = [group["0"], group["1"]]
        parts = (array[row] for array in self._arrays)
        return tuple(torch.from_numpy(np.array(part)) for part in self.what.cut(*parts))


class OurStoreByTensorStore(Peer):
    name, needs = "TensorStore on our store", "tensorstore"

    def write(self, pictures: Pictures) -> None:
        """Ours is there."""

    def batches(self, workers: int) -> Generator[Any]:
        """Reads with threads of its own, a batch ahead."""
        import tensorstore as ts

        limit = {"limit": workers}
        context = ts.Context({"data_copy_concurrency": limit, "file_io_concurrency": limit})
        paths = (f"ranked/{CODEC}/made/y_hat", "labels/segmentation")
        arrays = []
        for path in paths:
            kvstore = {"driver": "file", "path": f"{self.folder.parent}/ours.zarr/{SPLIT}/{path}/"}
            spec = {"driver": "zarr3", "kvstore": kvstore}
            arrays.append(ts.open(spec, context=context, read=True, open=True).result())
        ahead: list[Any] = []
        while True:
            for rows in torch.randperm(self.count).split(BATCH):
                cut = [self._cut(arrays, row) for row in rows.tolist()]
                ahead.append([[part.read() for part in sample] for sample in cut])
                if len(ahead) > 1:
                    yield [
                        torch.from_numpy(np.stack([part.result() for part in column]))
                        for column in zip(*ahead.pop(0), strict=True)
                    ]

    def _cut(self, arrays: list[Any], row: int) -> tuple[Any, Any]:
        return self.what.cut(*(array[row].translate_to[0] for array in arrays))

    def __getitem__(self, row: int) -> Sample:
        raise TypeError(f"{self.name} is read as a stream, not by row {row}")


class TorchFilesAfar(TorchFiles):
    """The same, each in one request."""

    def __init__(self, address: str, count: int) -> None:
        super().__init__(Path(), count)
        self.address = address.replace("slow", "http", 1)

    def __getitem__(self, row: int) -> Sample:
        return torch.load(io.BytesIO(_get(f"{self.address}/{row}.pt")), weights_only=True)


class ZippedFilesAfar(ZippedFiles):
    """The same, each in one request."""

    def __init__(self, address: str, count: int) -> None:
        super().__init__(Path(), count)
        self.address = address.replace("slow", "http", 1)

    def __getitem__(self, row: int) -> Sample:
        with np.load(io.BytesIO(_get(f"{self.address}/{row}.npz"))) as file:
            return torch.from_numpy(file["y_hat"]), torch.from_numpy(file["labels"])


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


PEERS: tuple[type[Peer], ...] = (
    TorchFiles,
    NumpyFiles,
    ZippedFiles,
    PlainZarr,
    OurStoreByTensorStore,
)
AFAR: dict[type[Peer], Callable[[str, int], Peer]] = {
    TorchFiles: TorchFilesAfar,
    ZippedFiles: ZippedFilesAfar,
}


def is_there(peer: type[Peer]) -> bool:
    """Tells whether what a peer needs is installed."""
    return importlib.util.find_spec(peer.needs) is not None
