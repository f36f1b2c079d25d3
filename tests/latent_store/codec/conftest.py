"""Fixtures of the codec's tests: one made codec, its stock twin in float64, and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch

from latent_store.codec import Codec, codec_from_bytes
from latent_store.codec.stock import ScaleHyperprior
from tests.latent_store.codec.made_codec import make_model, save


@pytest.fixture(scope="session")
def checkpoint() -> bytes:
    """The made model's checkpoint file."""
    return save(make_model().state_dict())


@pytest.fixture(scope="session")
def codec(checkpoint: bytes) -> Codec:
    return codec_from_bytes(checkpoint)


@pytest.fixture(scope="session")
def small_checkpoint() -> bytes:
    return save(make_model(8, 12).state_dict())


@pytest.fixture(scope="session")
def stock(checkpoint: bytes) -> ScaleHyperprior:
    """The unmodified model in float64."""
    state = torch.load(io.BytesIO(checkpoint), weights_only=True)
    return ScaleHyperprior.from_state_dict(state).double().eval()


@pytest.fixture(scope="session")
def hyper_symbols() -> Callable[..., torch.Tensor]:
    """Makes symbols of ẑ, int32 [B, 128, h, w]."""

    def make(batch: int, height: int = 1, width: int = 2) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        shape = (batch, 128, height, width)
        return torch.randint(-6, 7, shape, generator=generator, dtype=torch.int32)

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """Makes a smooth picture with some noise, uint8 [H, W, 3]."""

    def make(height: int = 100, width: int = 130, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        waves = [127 + 90 * np.sin(x / (9 + c) + c) * np.cos(y / (7 + c)) for c in range(3)]
        noisy = np.stack(waves, axis=2) + rng.normal(scale=8, size=(height, width, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return make
