"""Holds a store against unmodified CompressAI, image by image.

    python -m tests.benchmarks.stock_codec --store cv.zarr --split cityscapes/val --data_root D

For every encoded image: does the stock model's g_a give the stored ŷ from the same padded
picture (rounding ties are counted), does the stock double model decode the stored strings to
exactly ŷ, is its x̂ what this package reconstructs, and does the stock float32 model decode them?
The row `stock` of `tests.benchmarks.store` asks the same of every codec, and runs g_a and g_s,
which take most of the time, on some images only.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import latent_store
from latent_store.codec import codec_from_store, image_to_tensor, pad_image
from latent_store.codec.stock import ScaleHyperprior
from latent_store.components.latents import LatentsReader
from latent_store.console import progress
from latent_store.format.schema import HYPER_STRIDE
from latent_store.tools.decode import decode_gaussians
from tests.benchmarks.bench import Bench, Line

MAX_TIES = 1e-5
X_HAT_TOLERANCE = 1e-5
PICTURES_EVERY = 16
"""In the store's benchmark, the images whose g_a and g_s run, too."""


@dataclass(frozen=True, kw_only=True)
class StockReport:
    """What the comparison found.

    Attributes:
        images: How many were decoded to ŷ.
        pictures: How many of them were also encoded, and decoded to pixels.
        symbols: Symbols of ŷ of the latter.
        ties: Symbols of ŷ in which the stock g_a rounds to the other side.
        lost_double: Images that the stock double model does not decode to the stored ŷ.
        lost_float32: The same for the stock float32 model.
        x_hat_error: Largest difference of x̂, before rounding, from the stock double model's.
    """

    images: int = 0
    pictures: int = 0
    symbols: int = 0
    ties: int = 0
    lost_double: int = 0
    lost_float32: int = 0
    x_hat_error: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the promises hold; what float32 loses is only reported."""
        within = self.x_hat_error <= X_HAT_TOLERANCE
        return self.ties <= MAX_TIES * self.symbols and not self.lost_double and within

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.symbols} symbols: {self.ties} rounding ties against the "
            f"stock g_a; the stock double model loses {self.lost_double} images, x_hat within "
            f"{self.x_hat_error:.1e}; the stock float32 model loses {self.lost_float32}"
        )

    def __add__(self, other: StockReport) -> StockReport:
        summed = ("images", "pictures", "symbols", "ties", "lost_double", "lost_float32")
        sums = {name: getattr(self, name) + getattr(other, name) for name in summed}
        return StockReport(**sums, x_hat_error=max(self.x_hat_error, other.x_hat_error))


def compare_with_stock(
    store: latent_store.LatentStore, split_name: str, data_root: Path, codec_id: str | None = None
) -> StockReport:
    """Compares every image of a split, pictures included."""
    split = store[split_name]
    latents = split.latents(codec_id)
    return compare_rows(latents, split.common_rows(latents).tolist(), data_root, pictures_every=1)


def compare_rows(
    latents: LatentsReader, rows: Sequence[int], data_root: Path, *, pictures_every: int
) -> StockReport:
    """Compares some images of a codec's latents; every so manieth with its picture, too."""
    models = StockModels(latents)
    report = StockReport()
    bar = progress(rows, desc=f"stock CompressAI {latents.spec.codec_id}", unit="image")
    for number, row in enumerate(bar):
        report += models.compare_strings(row)
        if number % pictures_every == 0:
            report += models.compare_picture(row, data_root)
    return report


class StockModels:
    """Unmodified CompressAI models of one codec, in both precisions, against its latents."""

    def __init__(self, latents: LatentsReader):
        self.latents = latents
        store = latent_store.LatentStore(latents.location)
        self.codec = codec_from_store(store, latents.spec.codec_id)
        state = torch.load(io.BytesIO(self.codec.checkpoint_bytes), weights_only=True)
        stock = type(self.codec.model)
        self.single = stock.from_state_dict(state).eval()
        self.double = stock.from_state_dict(state).double().eval()
        uris = latents.plan.samples.column("image_uri").to_pylist()
        self.uris = dict(zip(latents.plan.rows.tolist(), uris, strict=True))

    def compare_strings(self, row: int) -> StockReport:
        """Decodes one image's strings to ŷ with both models."""
        lost = {}
        for name, model in (("lost_double", self.double), ("lost_float32", self.single)):
            with torch.no_grad():
                symbols, _ = self._decode(model, row)
            lost[name] = int(not torch.equal(symbols.long(), self._symbols(row)))
        return StockReport(images=1, **lost)

    def compare_picture(self, row: int, data_root: Path) -> StockReport:
        """Encodes one image's picture, and decodes its strings to pixels."""
        expected = self._symbols(row)
        with Image.open(data_root / self.uris[row]) as image:
            x = image_to_tensor(pad_image(np.asarray(image.convert("RGB"))))
        with torch.no_grad():
            symbols, y_hat = self._decode(self.double, row)
            means = y_hat - symbols
            ties = int(((self.single.g_a(x)[0] - means).round().long() != expected).sum())
            x_hat = self.double.decompress(self._strings(row), self._shape(row))["x_hat"]
            ours = self.codec.reconstruct(y_hat[None]).double().clamp(0, 1)
        error = float((x_hat - ours).abs().max())
        return StockReport(pictures=1, symbols=expected.numel(), ties=ties, x_hat_error=error)

    def _strings(self, row: int) -> list[list[bytes]]:
        return [[self.latents.y_string(row)], [self.latents.z_string(row)]]

    def _shape(self, row: int) -> tuple[int, int]:
        height, width = self.latents.plan.sample_at(row).coded_size
        return height // HYPER_STRIDE, width // HYPER_STRIDE

    def _decode(self, model: ScaleHyperprior, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns symbols and ŷ that a stock model decodes: its `decompress` before g_s."""
        (y, z), coder = self._strings(row), model.gaussian_conditional
        z_hat = model.entropy_bottleneck.decompress(z, self._shape(row))
        z_hat = z_hat.to(next(model.parameters()).dtype)
        scales, means = self.codec.family.split(model.h_s(z_hat))
        indexes = coder.build_indexes(scales)
        symbols, y_hat = (coder.decompress(y, indexes, z_hat.dtype, m)[0] for m in (None, means))
        return symbols, y_hat

    def _symbols(self, row: int) -> torch.Tensor:
        height, width = (4 * side for side in self._shape(row))
        y_hat_CHW = self.latents.read([row])[0, :, :height, :width]
        gaussians = decode_gaussians(self.codec, self.latents, row)
        return torch.from_numpy(gaussians.symbols(y_hat_CHW)).long()


def measure(bench: Bench) -> list[Line]:
    """Compares every image of every codec."""
    report = StockReport()
    for codec_id in bench.codec_ids:
        for latents, rows in bench.latents(codec_id):
            report += compare_rows(latents, rows, bench.data_root, pictures_every=PICTURES_EVERY)
    return [
        Line(
            what="ŷ from the stored strings by unmodified CompressAI in float64",
            promised="exact for every image",
            measured=f"{report.lost_double} of {report.images} images lost",
            holds=not report.lost_double,
        ),
        Line(
            what="the same in float32",
            promised="nothing",
            measured=f"{report.lost_float32} of {report.images} images lost",
            holds=None,
        ),
        Line(
            what="x̂ of its whole decompress() against this package's",
            promised=f"within {X_HAT_TOLERANCE:.0e}",
            measured=f"{report.x_hat_error:.1e} in {report.pictures} images",
            holds=report.x_hat_error <= X_HAT_TOLERANCE,
        ),
        Line(
            what="ŷ by its g_a, which rounds ties as it likes",
            promised=f"at most {MAX_TIES:.0e} of the symbols differ",
            measured=f"{report.ties} of {report.symbols / 1e6:.1f} million differ",
            holds=report.ties <= MAX_TIES * report.symbols,
        ),
    ]


def main() -> int:
    """Prints the report; exits with 1 if a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--split", default="cityscapes/val")
    parser.add_argument("--data_root", type=Path, required=True)
    parser.add_argument("--codec")
    flags = parser.parse_args()
    store = latent_store.open(flags.store)
    report = compare_with_stock(store, flags.split, flags.data_root, flags.codec)
    print(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
