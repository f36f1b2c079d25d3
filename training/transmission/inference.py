"""Predictions from received latents, the same for a store's streams and for a camera's.

The gate runs at the camera: it is taken out of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from latent_store.codec import Codec, tensor_to_image
from latent_store.errors import CheckpointError
from training.tasks.base import Task


def predict(
    task: Task,
    network: nn.Module,
    y_hat_BCHW: torch.Tensor,
    sizes: Sequence[tuple[int, int]],
    codec: Codec | None,
    device: torch.device,
    *,
    name: str,
) -> list[Any]:
    """Returns the task's predictions from decoded latents, one an image.

    Args:
        task, network: The network is without its gate.
        y_hat_BCHW: Integers, the channels that the network takes (for pixels: all).
        sizes: Height and width of the original pictures.
        codec: For a network on pixels: decodes x̂, whole, rounded to 8 bits. None on latents.
        device: Where the network is.
        name: The network's file, for messages.

    Raises:
        CheckpointError: The network's output is not finite.
    """
    with torch.inference_mode():
        valid_B2 = torch.tensor(sizes, device=device)
        x_BCHW = _network_input(y_hat_BCHW, codec, device)
        outputs = network(x_BCHW, **task.tail_inputs({"valid_B2": valid_B2}))
        # argmax would make a class out of NaN without a word.
        _require_finite([x for x in outputs.values() if isinstance(x, torch.Tensor)], name)
        return task.predictions(outputs, sizes)


def require_finite_weights(network: nn.Module, name: str) -> None:
    """Refuses damaged networks whose output would not show it.

    A detector drops boxes that are not finite: that looks like a picture without objects.

    Raises:
        CheckpointError: A weight is not finite.
    """
    _require_finite((*network.parameters(), *network.buffers()), name)


def _network_input(
    y_hat_BCHW: torch.Tensor, codec: Codec | None, device: torch.device
) -> torch.Tensor:
    """Returns latents as float32, or the pictures that the codec makes of them, in [0, 1]."""
    if codec is None:
        return y_hat_BCHW.to(device, torch.float32)
    pictures_BHWC = torch.from_numpy(tensor_to_image(codec.reconstruct(y_hat_BCHW)))
    return pictures_BHWC.to(device).permute(0, 3, 1, 2).float().div_(255)


def _require_finite(tensors: Iterable[torch.Tensor], name: str) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise CheckpointError(
            f"{name} gives values that are not finite: its training diverged, or its weights "
            "are damaged; use an earlier checkpoint"
        )
