"""Multiply-adds of a network, counted as they are and as thop counts them.

The paper's 94 G for Module-Deconv is thop's number: thop counts a transposed convolution at its
output positions, although at stride 2 three quarters of the products there are with inserted zeros
that nobody multiplies. Both counts are given, the true one first.

torch's own counter counts convolutions and linear layers, whose products are all but everything,
and so IGDN, whose norm is a 1×1 convolution of the squares (thop does not know it). Additions,
norms, activations and upsampling are left out of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latent_store.codec import stock
from latent_store.format.schema import LATENT_STRIDE
from training.networks.network_config import NetworkConfig
from training.tasks.registry import build_network, find_task

_WRAPPED = "network."


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
    """Counts a module's multiply-adds over a whole batch, without computing or changing anything.

    `input_shapes` are those of its positional float32 inputs, e.g. (1, 192, 64, 128).
    """
    true = _by_module(module, input_shapes, {})
    thop = _by_module(module, input_shapes, {torch.ops.aten.convolution: _at_outputs})
    norms = [name for name, child in module.named_modules() if isinstance(child, stock.GDN)]
    macs = Macs(true=true[""], thop=thop[""] - sum(thop[name] for name in norms))
    for name, number in true.items():
        names = name.split(".")
        outer = (".".join(names[:depth]) for depth in range(1, len(names)))
        if name and true.keys().isdisjoint(outer):
            part = name.removeprefix(_WRAPPED).split(".")[0]
            macs.parts[part] = macs.parts.get(part, 0) + number
    return macs


def network_macs(config: NetworkConfig, height: int, width: int) -> Macs:
    """Counts a network's multiply-adds for one image of a coded size in pixels."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(config)
    layers = find_task(config.task).countable(network)
    if config.domain == "pixel":
        return count_macs(layers, (1, 3, height, width))
    grid = (height // LATENT_STRIDE, width // LATENT_STRIDE)
    return count_macs(layers, (1, config.input_channels, *grid), (1, config.latent_channels))


def _by_module(
    module: nn.Module, input_shapes: Sequence[Sequence[int]], formulas: dict[Any, Any]
) -> dict[str, int]:
    """Returns the multiply-adds inside of each submodule that is called, of all under ""."""
    with torch.device("meta"):
        inputs = tuple(torch.empty(tuple(shape)) for shape in input_shapes)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: tensor.to("meta") for name, tensor in tensors.items()}
    was_training = module.training
    module.eval()
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    try:
        with counter, torch.no_grad():
            torch.func.functional_call(module, state, inputs)
    finally:
        module.train(was_training)
    # The counter puts the class of the outermost module before every name.
    named = {name.partition(".")[2]: n for name, n in counter.get_flop_counts().items()}
    return {name: sum(by_operator.values()) // 2 for name, by_operator in named.items()}


def _at_outputs(x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Any, **__: Any) -> int:
    """Counts a convolution's operations as thop does: its weights at every output position."""
    return 2 * out_shape[0] * math.prod(out_shape[2:]) * math.prod(weight)
