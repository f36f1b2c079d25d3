"""Holds a store against unmodified CompressAI, image by image.

    python -m tests.benchmarks.stock_codec --store cv.zarr --split cityscapes/val --data_root D

For every encoded image: does the stock model's g_a give the stored ŷ from the same padded
picture (rounding ties are counted), does the stock double model decode the stored strings to
exactly ŷ, is its x̂ what this package reconstructs, and does the stock float32 model decode them?
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import latent_store
from latent_store.codec import codec_from_store, image_to_tensor, pad_image
from latent_store.codec.stock import ScaleHyperprior
from latent_store.console import progress
from latent_store.schema import HYPER_STRIDE

MAX_TIES = 1e-5
X_HAT_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class StockReport:
    """What the comparison found.

    Attributes:
        ties: Symbols of ŷ in which the stock g_a rounds to the other side.
        lost_double: Images that the stock double model does not decode to the stored ŷ.
        lost_float32: The same for the stock float32 model.
        x_hat_error: Largest difference of x̂, before rounding, from the stock double model's.
    """

    images: int = 0
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


def compare_with_stock(
    store: latent_store.LatentStore, split_name: str, data_root: Path, codec_id: str | None = None
) -> StockReport:
    """Compares every image of a split."""
    split = store[split_name]
    latents = split.latents(codec_id)
    codec = codec_from_store(store, latents.spec.codec_id)
    state = torch.load(io.BytesIO(codec.checkpoint_bytes), weights_only=True)
    single = ScaleHyperprior.from_state_dict(state).eval()
    double = ScaleHyperprior.from_state_dict(state).double().eval()
    uris = dict(zip(split.plan.rows, (s.image_uri for s in split.plan.samples), strict=True))
    report = StockReport()
    rows = split.common_rows(latents).tolist()
    for row in progress(rows, desc="stock CompressAI", unit="image"):
        ((height, width),) = split.coded_sizes([row]).tolist()
        shape = (height // HYPER_STRIDE, width // HYPER_STRIDE)
        canvas_CHW = latents.read([row])[0].astype(np.int64)
        y_hat = torch.from_numpy(canvas_CHW[:, : 4 * shape[0], : 4 * shape[1]])
        with Image.open(data_root / uris[row]) as image:
            x = image_to_tensor(pad_image(np.asarray(image.convert("RGB"))))
        strings = [[latents.y_string(row)], [latents.z_string(row)]]
        with torch.no_grad():
            ties = int((single.g_a(x).round()[0].long() != y_hat).sum())
            decoded = decode_y_hat(double, strings, shape)
            x_hat = double.decompress(strings, shape)["x_hat"]
            ours = codec.reconstruct(decoded).double().clamp(0, 1)
            lost = not torch.equal(decoded[0].round().long(), y_hat)
            single_decoded = decode_y_hat(single, strings, shape)
            lost_float32 = not torch.equal(single_decoded[0].round().long(), y_hat)
        report = replace(
            report,
            images=report.images + 1,
            symbols=report.symbols + y_hat.numel(),
            ties=report.ties + ties,
            lost_double=report.lost_double + lost,
            lost_float32=report.lost_float32 + lost_float32,
            x_hat_error=max(report.x_hat_error, float((x_hat - ours).abs().max())),
        )
    return report


def decode_y_hat(
    model: ScaleHyperprior, strings: list[list[bytes]], shape: tuple[int, ...]
) -> torch.Tensor:
    """Returns what the stock model decodes: the lines of its ``decompress`` before g_s."""
    z_hat = model.entropy_bottleneck.decompress(strings[1], shape)
    z_hat = z_hat.to(next(model.parameters()).dtype)
    scales_hat = model.h_s(z_hat)
    indexes = model.gaussian_conditional.build_indexes(scales_hat)
    return model.gaussian_conditional.decompress(strings[0], indexes, z_hat.dtype)


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
