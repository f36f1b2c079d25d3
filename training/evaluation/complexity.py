"""Multiply-adds of a network, counted as they are and as thop counts them.

The paper's 94 G for Module-Deconv is thop's number: thop counts a transposed convolution at its
output positions, although at stride 2 three quarters of the products there are with inserted zeros
that nobody multiplies. Both counts are given, the true one first.

Counted are convolutions and linear layers, whose products are all but everything, and IGDN, whose
norm is a 1×1 convolution of the squares (thop does not know it). Additions, norms, activations and
upsampling are left out of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from latent_store.codec.stock import GDN
from latent_store.format.schema import LATENT_STRIDE
from training.networks.networks import NetworkConfig
from training.tasks.build import build_network
from training.tasks.registry import find_task

_WRAPPED = "network."
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(kw_only=True)
class Macs:
    """Multiply-adds of one forward pass.

    Attributes:
        true: What is multiplied.
        thop: What thop reports for the same layers.
        parts: True multiply-adds by direct child module, e.g. "gate", "transform", "tail".
    """

    true: int = 0
    thop: int = 0
    parts: dict[str, int] = field(default_factory=dict)


def count_macs(module: nn.Module, *input_shapes: Sequence[int]) -> Macs:
    """Counts a module's multiply-adds, without computing anything.

    Args:
        module: Any module; neither it nor its mode is changed.
        input_shapes: Shapes of its positional float32 inputs, e.g. (1, 192, 64, 128).

    Returns:
        Totals over the whole batch.
    """
    with torch.device("meta"):
        inputs = [torch.empty(tuple(shape)) for shape in input_shapes]
    state = {name: tensor.to("meta") for name, tensor in _tensors(module).items()}
    macs = Macs()
    handles = [
        child.register_forward_hook(_hook(macs, name.removeprefix(_WRAPPED).split(".")[0]))
        for name, child in module.named_modules()
        if isinstance(child, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, GDN))
    ]
    was_training = module.training
    try:
        module.eval()
        with torch.no_grad():
            torch.func.functional_call(module, state, tuple(inputs))
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return macs


def network_macs(config: NetworkConfig, height: int, width: int) -> Macs:
    """Counts a network's multiply-adds for one image of a coded size.

    Args:
        config: Of the network.
        height: Coded height in pixels, a multiple of 64.
        width: Coded width in pixels.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(config)
    network = find_task(config.task).countable(network)
    if config.domain == "pixel":
        return count_macs(network, (1, 3, height, width))
    grid = (height // LATENT_STRIDE, width // LATENT_STRIDE)
    return count_macs(network, *config.channel_selection.input_shapes(grid))


def _hook(macs: Macs, part: str):
    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        true, thop = _layer_macs(layer, inputs[0], output)
        macs.true += true
        macs.thop += thop
        macs.parts[part] = macs.parts.get(part, 0) + true

    return add


def _layer_macs(layer: nn.Module, x: torch.Tensor, output: torch.Tensor) -> tuple[int, int]:
    """Returns (true, thop's) multiply-adds of one layer."""
    if isinstance(layer, GDN):
        return x.numel() * x.shape[1], 0
    if isinstance(layer, nn.Linear):
        macs = output.numel() * layer.in_features
        return macs, macs
    kernel = torch.Size(layer.kernel_size).numel()
    at_output = output.numel() * layer.in_channels // layer.groups * kernel
    if isinstance(layer, _TRANSPOSED):
        return x.numel() * layer.out_channels // layer.groups * kernel, at_output
    return at_output, at_output


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())
