"""Weights with folded batch norms: the same function afterwards, and still in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from training.networks.network_config import NetworkConfig
from training.networks.networks import PixelNetwork
from training.tasks.registry import build_network
from training.trainer.folded_norms import folded_norms, unfold_norms


def batches(count: int = 2) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(7)
    smooth = [torch.rand(4, 3, 8, 8, generator=generator) for _ in range(count)]
    return [{"x_BCHW": nn.functional.interpolate(x_BCHW, size=64)} for x_BCHW in smooth]


@pytest.fixture(params=["segmentation", "detection"])
def folded(request: pytest.FixtureRequest) -> PixelNetwork:
    """A network as an inference engine has it: norms only add, and channels differ in size."""
    torch.manual_seed(3)
    config = NetworkConfig(
        domain="pixel",
        task=request.param,
        backbone="mobilenet_v2",
        aspp_width=8,
        fpn_width=8,
        box_head_width=8,
        num_classes=3,
    )
    network = build_network(config)
    assert isinstance(network, PixelNetwork)
    for module in (m for part in (network.stem, network.tail) for m in part.modules()):
        if isinstance(module, nn.Conv2d):
            sizes = torch.logspace(-0.7, 0.7, module.out_channels)[:, None, None, None]
            module.weight.data.mul_(sizes)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.5)
    return network


@torch.no_grad()
def test_it_is_the_same_function_and_training_changes_it_little(folded: PixelNetwork) -> None:
    def features(*, training: bool) -> torch.Tensor:
        stem = folded.stem.train(training)
        # Training moves no statistics here.
        kept = {name: value.clone() for name, value in stem.state_dict().items()}
        found: torch.Tensor = stem(batch["x_BCHW"])
        stem.load_state_dict(kept)
        return found

    (batch, *_) = batches()
    expected = features(training=False)
    apart = (features(training=True) - expected).square().mean() / expected.var()
    assert apart > 0.5
    number = len(folded_norms(folded))
    assert number == 51
    assert unfold_norms(folded, batches()) == number
    assert folded_norms(folded) == []
    torch.testing.assert_close(features(training=False), expected, rtol=1e-3, atol=1e-4)
    near = (features(training=True) - expected).square().mean() / expected.var()
    assert near < 0.05


def test_norms_with_statistics_of_their_own_are_left_alone(folded: PixelNetwork) -> None:
    norm = next(m for m in folded.stem.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var[0] = 2.0
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    assert unfold_norms(folded, iter(())) == 0
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    # Nor are those of fresh weights, which have no bias either.
    fresh = build_network(folded.config)
    assert isinstance(fresh, PixelNetwork)
    assert unfold_norms(fresh, iter(())) == 0
