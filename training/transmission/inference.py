"""From received latents to maps or boxes, the same for a store's streams and for a camera's.

The gate runs at the camera: it is taken out of the network.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from latent_store.codec import Codec, tensor_to_image
from latent_store.errors import CheckpointError
from training.tasks.detection_metrics import Detections

Output = np.ndarray | Detections
"""A network's output for one picture: a map, uint8 [H, W], or detections."""


def segment_latents(
    network: nn.Module,
    y_hat_BCHW: torch.Tensor,
    codec: Codec | None,
    device: torch.device,
    *,
    name: str,
) -> torch.Tensor:
    """Returns the maps that a network makes of decoded latents.

    Args:
        network: Without its gate.
        y_hat_BCHW: Integers, the channels that the network takes (for pixels: all).
        codec: For a network on pixels: decodes x̂, whole, rounded to 8 bits. None on latents.
        device: Where the network is.
        name: The network's file, for messages.

    Returns:
        uint8 [B, 16h, 16w] on the device.

    Raises:
        CheckpointError: The network's output is not finite.
    """
    with torch.inference_mode():
        logits_BKHW = network(_network_input(y_hat_BCHW, codec, device))["logits"]
        # argmax would make a class out of NaN without a word.
        _require_finite([logits_BKHW], name)
        return logits_BKHW.argmax(dim=1).to(torch.uint8)


def detect_latents(
    network: nn.Module,
    y_hat_BCHW: torch.Tensor,
    valid_B2: torch.Tensor,
    codec: Codec | None,
    device: torch.device,
    *,
    name: str,
) -> list[Detections]:
    """Returns the objects that a network finds in decoded latents, one an image.

    Args:
        network: Without its gate.
        y_hat_BCHW: See `segment_latents`.
        valid_B2: Height and width of the original pictures; boxes are clipped to them.
        codec, device, name: See `segment_latents`.

    Raises:
        CheckpointError: The network's features are not finite; its weights were looked at before,
            by `require_finite_weights`.
    """
    with torch.inference_mode():
        outputs = network(_network_input(y_hat_BCHW, codec, device), valid_B2=valid_B2.to(device))
        _require_finite([outputs["features"]], name)
        return [Detections.from_output(found) for found in outputs["detections"]]


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
