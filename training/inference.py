"""From received latents to maps, the same for a store's streams and for a camera's.

The gate runs at the camera. It is taken out of the network, so that what is behind the decoder
sees only the latents that were sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from latent_store.codec import Codec, tensor_to_image
from latent_store.errors import CheckpointError
from training.bench import Bench
from training.candidates import Candidate
from training.checkpoints import load_network
from training.gate import ChannelGate
from training.points import ImageRate
from training.rates import ChosenStreams, Receiver, ScalableStreams, WholeStreams


class Pipeline:
    """One candidate's way from the store's streams to maps."""

    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        self.bench = bench
        self.candidate = candidate
        self.device = torch.device(bench.options.device)
        self.network = load_network(candidate.path, map_location=bench.options.device).network
        self.codec = bench.codec(candidate.spec.codec_id)
        self.gate = split_gate(self.network)
        self.receiver = self._receiver()

    def segment(
        self, rows: Sequence[int], size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[ImageRate, ...]]:
        """Returns maps at coded size, uint8 [B, H, W], and rates, of rows of one coded size."""
        received = self.receiver.receive(rows, size)
        y_hat_BCHW = torch.from_numpy(np.ascontiguousarray(received.y_hat_BCHW))
        return self.maps(y_hat_BCHW).cpu().numpy(), received.rates

    def maps(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns maps of decoded latents, uint8 [B, 16h, 16w]."""
        codec = self.codec if self.candidate.config.domain == "pixel" else None
        name = str(self.candidate.path)
        return segment_latents(self.network, y_hat_BCHW, codec, self.device, name=name)

    def _receiver(self) -> Receiver:
        codec, decode = self.codec, self.bench.options.decode
        latents = self.bench.latents(self.candidate.spec.codec_id)
        config = self.candidate.config
        if config.channels is not None:
            ranked = self.bench.ranked(latents.spec.codec_id, str(self.candidate.ranking_id))
            channels = config.channels[: self.candidate.keep]
            return ScalableStreams(codec, latents, ranked, channels, decode)
        if self.gate is not None:
            return ChosenStreams(codec, latents, self._choose, decode)
        return WholeStreams(codec, latents, decode)

    def _choose(self, rows: np.ndarray) -> np.ndarray:
        latents = self.bench.latents(self.candidate.spec.codec_id)
        pooled_BC = latents.column(f"channel_{self.candidate.config.gate_pool}", rows)
        return choose_channels(self.gate, torch.from_numpy(pooled_BC).to(self.device))


def split_gate(network: nn.Module) -> ChannelGate | None:
    """Takes the gate out of a network, which then takes latents that were selected already."""
    gate = getattr(network, "gate", None)
    if gate is not None:
        network.gate = None
    return gate


def choose_channels(gate: ChannelGate, pooled_BC: torch.Tensor) -> np.ndarray:
    """Returns which channels a gate keeps, bool [B, C]."""
    with torch.inference_mode():
        return gate(pooled_BC).gate_BC.cpu().numpy().astype(bool)


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
        if codec is None:
            network_input = y_hat_BCHW.to(device, torch.float32)
        else:
            pictures_BHWC = torch.from_numpy(tensor_to_image(codec.reconstruct(y_hat_BCHW)))
            network_input = pictures_BHWC.to(device).permute(0, 3, 1, 2).float().div_(255)
        logits_BKHW = network(network_input)["logits"]
        # argmax would make a class out of NaN without a word.
        if not torch.isfinite(logits_BKHW).all():
            message = (
                f"{name} gives values that are not finite: its training diverged, or its weights "
                "are damaged; use an earlier checkpoint"
            )
            raise CheckpointError(message)
        return logits_BKHW.argmax(dim=1).to(torch.uint8)
