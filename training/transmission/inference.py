"""Predictions from received latents, the same for a store's streams and for a camera's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_store.codec import Codec, tensor_to_image
from latent_store.errors import CheckpointError, LatentStoreError
from training.networks.network_config import NetworkConfig
from training.selection.gated import split_gate
from training.tasks.registry import find_task
from training.trainer.checkpoints import load_network


def require_stops(name: str, config: NetworkConfig) -> None:
    """Refuses a network that cannot tell when it needs no further channels.

    Raises:
        LatentStoreError: It is not for any N, or its task's networks do not say how sure they are.
    """
    if not config.channel_selection.cuts:
        raise LatentStoreError(
            f"--stop_confidence goes with a network for any N, and {name} is one with {config}: "
            "leave it out"
        )
    find_task(config.task).require_confidences()


class ServerNetwork:
    """A checkpoint's network as it runs at the server: without its gate.

    Attributes:
        name: The checkpoint's file, for messages.
        config, meta, codec_bytes: See `LoadedNetwork`.
        class_names: Of the network's classes; their numbers where the file does not say.
        gate: Runs at the camera; None for networks without one.
        device: Of network and gate.

    Raises:
        CheckpointError: The file is none of ours, or a weight is not finite. A detector drops boxes
            that are not finite, which would look like a picture without objects.
    """

    def __init__(self, checkpoint: Path, device: str) -> None:
        loaded = load_network(checkpoint, map_location=device)
        self.name, self.device = str(checkpoint), torch.device(device)
        self.config, self.meta, self.codec_bytes = loaded.config, loaded.meta, loaded.codec_bytes
        names = loaded.meta["class_names"] or map(str, range(loaded.config.num_classes))
        self.class_names = tuple(names)
        self._network, self._task = loaded.network, find_task(loaded.config.task)
        self._require_finite((*loaded.network.parameters(), *loaded.network.buffers()))
        self.gate = split_gate(loaded.network)

    def predict(
        self, y_hat_BCHW: np.ndarray, sizes: Sequence[tuple[int, int]], codec: Codec
    ) -> list[Any]:
        """Returns the task's predictions from decoded latents, one an image.

        Args:
            y_hat_BCHW: ŷ of the channels that the network takes (for pixels: all).
            sizes: Height and width of the original pictures.
            codec: Decodes x̂, whole, rounded to 8 bits, for a network on pixels.

        Raises:
            CheckpointError: The network's output is not finite.
        """
        with torch.inference_mode():
            return self._task.predictions(self._outputs(y_hat_BCHW, sizes, codec), sizes)

    def predict_surely(
        self, y_hat_BCHW: np.ndarray, sizes: Sequence[tuple[int, int]], codec: Codec
    ) -> tuple[list[Any], list[float]]:
        """Returns what `predict` does, and how sure the network is of each, from 0 to 1."""
        with torch.inference_mode():
            outputs = self._outputs(y_hat_BCHW, sizes, codec)
            predictions = self._task.predictions(outputs, sizes)
            return predictions, self._task.confidences(outputs, sizes)

    def _outputs(
        self, y_hat_BCHW: np.ndarray, sizes: Sequence[tuple[int, int]], codec: Codec
    ) -> dict[str, Any]:
        inputs_BCHW = torch.from_numpy(np.ascontiguousarray(y_hat_BCHW))
        if self.config.domain == "pixel":
            pictures_BHWC = torch.from_numpy(tensor_to_image(codec.reconstruct(inputs_BCHW)))
            x_BCHW = pictures_BHWC.to(self.device).permute(0, 3, 1, 2).float().div_(255)
        else:
            x_BCHW = inputs_BCHW.to(self.device, torch.float32)
        batch = {"valid_B2": torch.tensor(sizes, device=self.device)}
        outputs: dict[str, Any] = self._network(x_BCHW, **self._task.tail_inputs(batch))
        # argmax would make a class out of NaN without a word.
        self._require_finite(x for x in outputs.values() if isinstance(x, torch.Tensor))
        return outputs

    def _require_finite(self, tensors: Iterable[torch.Tensor]) -> None:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise CheckpointError(
                f"{self.name} gives values that are not finite: its training diverged, or its "
                "weights are damaged; use an earlier checkpoint"
            )
