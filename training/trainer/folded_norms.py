"""Batch norms whose statistics were folded into the convolutions before them, taken out again.

Weights that come from an inference engine (TFLite, ONNX, an exported detector) have batch norms
that only add: mean 0, variance 1, scale 1 and a bias. Evaluation is right with them. Training is
not: there a batch norm divides by what its batch varies by, so that at the first step every channel
has unit variance beside a bias of another size, and what was pretrained is gone. With the mean and
the variance that the layer has on pictures, and a scale and a bias that undo them, the network is
the same function and stays it when it trains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from training.networks.backbones import find_backbone
from training.networks.networks import PixelNetwork
from training.tasks.objective import network_inputs

BATCHES = 8
"""Statistics of so many batches are near enough: training moves them on."""
_NEAR = 1e-4


class _Moments:
    """Sums of a layer's input over batches, float64 [C]; a forward hook before it."""

    def __init__(self) -> None:
        self.count = 0
        self.first_C: Any = 0.0
        self.second_C: Any = 0.0

    def __call__(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x_CN = inputs[0].double().transpose(0, 1).flatten(1)
        self.count += x_CN.shape[1]
        self.first_C = self.first_C + x_CN.sum(1)
        self.second_C = self.second_C + x_CN.square().sum(1)

    def mean_and_variance(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean_C = self.first_C / self.count
        return mean_C, (self.second_C / self.count - mean_C.square()).clamp(min=0)


def folded_norms(network: PixelNetwork) -> list[nn.BatchNorm2d]:
    """Returns the batch norms of a network's backbone if all of them are folded, else none."""
    tail, backbone = network.tail, find_backbone(network.config.backbone)
    parts = [network.stem, *(getattr(tail, stage) for stage in backbone.stage_names)]
    norms = [m for part in parts for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
    biased = any(norm.bias.abs().max() > _NEAR for norm in norms)
    return norms if biased and all(map(_is_folded, norms)) else []


@torch.no_grad()
def unfold_norms(network: PixelNetwork, batches: Iterable[Mapping[str, Any]]) -> int:
    """Gives folded batch norms the statistics of pictures; the function stays what it was.

    Args:
        network: In place; one whose batch norms are not folded stays as it is.
        batches: Of training, as its loader gives them; not read where there is nothing to do.

    Returns:
        The number of batch norms that were unfolded.
    """
    norms = folded_norms(network)
    if not norms:
        return 0
    training = network.training
    moments = [_Moments() for _ in norms]
    with contextlib.ExitStack() as hooks:
        for norm, moment in zip(norms, moments, strict=True):
            hooks.callback(norm.register_forward_pre_hook(moment).remove)
        network.eval()
        for batch in batches:
            # The backbone alone: a detector's heads ask for more than pictures.
            inputs: tuple[Any, ...] = network_inputs(network, batch)
            network.tail.maps(network.transformed(*inputs)["features"])
    network.train(training)
    for norm, moment in zip(norms, moments, strict=True):
        mean_C, var_C = moment.mean_and_variance()
        # As evaluation has it now: (x - mean) / sqrt(var + eps) * weight + bias.
        was_mean_C, was_var_C = _statistics(norm)
        scale_C = norm.weight.double() / (was_var_C.double() + norm.eps).sqrt()
        norm.bias.copy_(norm.bias + scale_C * (mean_C - was_mean_C))
        norm.weight.copy_(scale_C * (var_C + norm.eps).sqrt())
        was_mean_C.copy_(mean_C)
        was_var_C.copy_(var_C)
    return len(norms)


def _statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the running mean and variance, which every batch norm here has."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    mean_C, var_C = _statistics(norm)
    values = ((mean_C, 0), (var_C, 1), (norm.weight, 1))
    return all(bool(((value - at).abs() <= _NEAR).all()) for value, at in values)
