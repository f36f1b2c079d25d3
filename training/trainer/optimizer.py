"""The optimiser of a run: Adam, whose groups of parameters learn at shares of the learning rate."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

SHARE = "share"


def make_optimizer(
    network: nn.Module, shares: Mapping[str, float], learning_rate: float
) -> torch.optim.Adam:
    """Returns Adam over what requires gradients, in groups of one share each; the whole first.

    Args:
        network: On its device.
        shares: By the name of a part of the network; 1 for the others.
        learning_rate: Of the parts with share 1.
    """
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(shares.get(name.partition(".")[0], 1.0), []).append(parameter)
    parts = [{"params": parameters, SHARE: share} for share, parameters in groups.items()]
    # One fused pass over all parameters: the plain form takes as long as a small network.
    return torch.optim.Adam(parts, lr=learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Adam, learning_rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[SHARE]


def resumed(
    optimizer: torch.optim.Adam, saved: dict[str, Any], network: nn.Module
) -> torch.optim.Adam:
    """Returns the optimiser where a saved one was.

    A run that was begun when all parts learned at one rate goes on so: in one group.
    """
    if len(saved["param_groups"]) != len(optimizer.param_groups):
        optimizer = make_optimizer(network, {}, saved["param_groups"][0]["lr"])
    optimizer.load_state_dict(saved)
    for group in optimizer.param_groups:
        group.setdefault(SHARE, 1.0)
    return optimizer
