"""The parts of a backbone as modules: its stem, and its four stages."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Stem(nn.Module):
    """Normalisation and a backbone's layers up to a quarter of the size."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        # Constants, not weights: they are not in the state dict.
        self.register_buffer("mean_C11", _column(_IMAGENET_MEAN), persistent=False)
        self.register_buffer("std_C11", _column(_IMAGENET_STD), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps RGB in [0, 1], [B, 3, H, W], to features [B, D, H/4, W/4]."""
        x_BCHW = (x_BCHW - self.mean_C11) / self.std_C11
        for layer in self.children():
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class Stages(nn.Module):
    """A backbone's four stages, each a child of its own name; a task's tail adds its heads."""

    def __init__(self, stages: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._names = tuple(stages)
        for name, stage in stages.items():
            self.add_module(name, stage)

    def maps(self, features_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Returns each stage's map of the stem's features, finest first."""
        maps = []
        for name in self._names:
            features_BCHW = getattr(self, name)(features_BCHW)
            maps.append(features_BCHW)
        return maps


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1)
