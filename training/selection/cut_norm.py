"""Batch norm for one network that works with several numbers of channels, its cuts.

How features are distributed depends on how many channels feed them, so statistics that mix the
cuts fit none of them (Yu et al., Slimmable neural networks, ICLR 2019). Weights and biases are
shared; every cut has a running mean and variance of its own, which only batches of that cut move.
So a batch in training has one cut, and evaluation uses the statistics of the cut that comes in.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from training.selection.base import Selection

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class CutSwitch:
    """Says which cut is in force, by its place; one for all batch norms of a network."""

    index: int = 0


class CutBatchNorm2d(nn.BatchNorm2d):
    """A batch norm with the weight and bias of another one, and statistics for every cut.

    Attributes:
        running_mean, running_var: Float32 [cuts, C].
        num_batches_tracked: Int64 [cuts].
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def __init__(self, like: nn.BatchNorm2d, cuts: int, switch: CutSwitch) -> None:
        super().__init__(like.num_features, eps=like.eps, momentum=like.momentum)
        self.weight, self.bias, self.switch = like.weight, like.bias, switch
        for name in STATISTICS:
            value = getattr(like, name)
            self.register_buffer(name, value.expand(cuts, *value.shape).clone())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalises by the batch's statistics in training, by the cut's in evaluation."""
        cut = self.switch.index
        if self.training:
            self.num_batches_tracked[cut] += 1
        # Rows are views: training moves the cut's own statistics in place.
        mean_C, var_C = self.running_mean[cut], self.running_var[cut]
        return F.batch_norm(
            x_BCHW, mean_C, var_C, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def keep_statistics_per_cut(network: nn.Module, cuts: int) -> CutSwitch:
    """Replaces every batch norm inside a network, and returns what switches them."""
    switch = CutSwitch()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, CutBatchNorm2d(child, cuts, switch))
    return switch


def at_cuts(
    name: str, value: torch.Tensor, mine: Selection, theirs: Selection | None = None
) -> torch.Tensor:
    """Returns an entry of another network's state dict as a network with this selection has it.

    Batch norm statistics are for every cut the other network's at that cut; at its largest where it
    has no such cut, and its only ones where it has none, or no selection. All else is as it was.
    """
    cuts = None if theirs is None else theirs.cuts
    if not name.endswith(STATISTICS) or cuts == mine.cuts:
        return value
    have, per_cut = cuts or (0,), value if cuts else value[None]
    places = [have.index(n) if n in have else -1 for n in mine.accepts]
    return per_cut[places] if mine.cuts else per_cut[places[0]]


def share_statistics(network: nn.Module) -> None:
    """Gives every cut the statistics of all cuts' batches together: one set, as others have it."""
    for norm in network.modules():
        if isinstance(norm, CutBatchNorm2d):
            mean_C = norm.running_mean.mean(0)
            second_C = (norm.running_var + norm.running_mean.square()).mean(0)
            norm.running_mean[:] = mean_C
            norm.running_var[:] = second_C - mean_C.square()


@contextlib.contextmanager
def averaged(network: nn.Module) -> Iterator[Callable[[], None]]:
    """Makes batch norm's statistics plain means over the batches that pass while this lasts.

    Nothing is dropped out meanwhile: the statistics are those of evaluation. Frozen batch norms,
    which are in evaluation mode, stay as they are.

    Yields:
        What to call before each batch, which every cut then sees once.
    """
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout) and m.training]
    norms = [
        m
        for m in network.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    momenta = [norm.momentum for norm in norms]
    count = itertools.count(1)

    def add_batch() -> None:
        number = next(count)
        for norm in norms:
            norm.momentum = 1 / number

    try:
        for dropout in dropouts:
            dropout.eval()
        for norm in norms:
            if (tracked := norm.num_batches_tracked) is not None:
                tracked.zero_()
        yield add_batch
    finally:
        for dropout in dropouts:
            dropout.train()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
