"""The channels that a gate keeps of each image.

    z string ─ mask ─ y string of the chosen channels, coded here ──► M, the rest zero

The gate runs at the camera: `split_gate` takes it out of the network, so that what is behind the
decoder sees only the latents that were sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latent_store.codec import StreamFile, decode_y, encode_y
from training.data.store_source import StoredChannels
from training.selection.base import Batch, Gate, Selected, Selection, Tensors
from training.selection.gate import ChannelGate, gumbel_noise, pool_latents
from training.selection.rates import Sent, Size, StoredStreams, StreamReceiver

ChooseChannels = Callable[[np.ndarray], np.ndarray]
"""Row numbers -> bool [n, M]: which channels a gate keeps of each."""


@dataclass(frozen=True, kw_only=True)
class Gated(Selection):
    """The gate inside the network multiplies the scaled latents by 0 or 1."""

    name = "dynamic"
    summary = "the channels that its gate keeps in each image"
    optional = ("rate_weight", "gate_pool", "gate_bias", "temperature", "temperature_end")

    @classmethod
    def label(cls, flags: Any) -> str:
        return cls.name + (" (rate-aware)" if flags.rate_weight else "")

    def stored(self, ranking_id: str | None) -> StoredChannels:
        return StoredChannels(pooled=self.gate_pool)

    def make_gate(self) -> Gate:
        return ChannelGate(self.latent_channels, bias=self.gate_bias)

    def select(self, network: Any, y_hat_BCHW: torch.Tensor, *gate_inputs: Any) -> Selected:
        """Drops channels; behind `split_gate` they come without those that were dropped."""
        if network.gate is None:
            return y_hat_BCHW, {}
        if gate_inputs[0] is None:
            raise ValueError("a dynamic network needs pooled_BC, see training.selection.gate")
        gate_BC, probability_BC = network.gate(*gate_inputs)
        outputs = {"gate_probability": probability_BC, "gate": gate_BC}
        return y_hat_BCHW * gate_BC[:, :, None, None], outputs

    def draw(self, batch: Batch, seed: int, epoch: int) -> tuple[Batch, Tensors]:
        """Draws the gate's noise."""
        noise_BC2 = gumbel_noise(seed, epoch, batch["rows_B"].tolist(), self.latent_channels)
        return batch, {"noise_BC2": noise_BC2.to(batch["y_hat_BCHW"].device)}

    def receiver(self, streams: StoredStreams, keep: int | None, gate: Any) -> StreamReceiver:

        def choose(rows: np.ndarray) -> np.ndarray:
            pooled_BC = streams.latents.column(f"channel_{self.gate_pool}", rows)
            return choose_channels(gate, torch.from_numpy(pooled_BC))

        return ChosenStreams(streams, choose)

    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Any) -> dict[str, Any]:
        mask_C = choose_channels(gate, pool_latents(y_hat_BCHW, self.gate_pool))[0]
        return {"selection": "dynamic", "channels": np.flatnonzero(mask_C).tolist()}

    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        return len(stream.channels) if stream.selection == "dynamic" else None


class ChosenStreams(StreamReceiver):
    """Each image's own channels, entropy-coded here, image by image.

    The mask is sent as a bitmap of ⌈M/8⌉ bytes. With `decode="none"` the string is still made,
    since its length is the rate, but not read back.
    """

    def __init__(self, streams: StoredStreams, choose: ChooseChannels) -> None:
        super().__init__(streams)
        self.choose = choose

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks_BC = self.choose(rows)
        y_hat_BCHW = self.streams.latents.read(rows)
        return y_hat_BCHW * masks_BC[:, :, None, None].astype(y_hat_BCHW.dtype), masks_BC

    def send(self, row: int, size: Size, y_hat_KHW: np.ndarray, mask_C: np.ndarray) -> Sent:
        """Encodes the chosen channels; they are decoded from string and mask alone."""
        gaussians, chosen = self.streams.gaussians(row, size), np.flatnonzero(mask_C)
        indexes_CHW = gaussians.indexes_CHW
        symbols_KHW = gaussians.symbols(y_hat_KHW[chosen], chosen)
        string = encode_y(self.tables, symbols_KHW, indexes_CHW[chosen])

        def decode() -> np.ndarray:
            kept = unpack_mask(pack_mask(mask_C), len(mask_C))
            decoded_CHW = np.zeros_like(y_hat_KHW)
            symbols_KHW = decode_y(self.tables, string, indexes_CHW, kept)
            decoded_CHW[kept] = gaussians.y_hat(symbols_KHW, kept)
            return decoded_CHW

        return len(string), decode

    def mask_bytes(self, mask_C: np.ndarray) -> int:
        return len(pack_mask(mask_C))


def split_gate(network: Any) -> ChannelGate | None:
    """Takes the gate out of a network, which then takes latents that were selected already."""
    gate = getattr(network, "gate", None)
    if gate is not None:
        network.gate = None
    return gate


def choose_channels(gate: ChannelGate, pooled_BC: torch.Tensor) -> np.ndarray:
    """Returns which channels a gate keeps, bool [B, M]."""
    with torch.inference_mode():
        decided = gate(pooled_BC.to(gate.input_mean_C.device))
        return decided.gate_BC.cpu().numpy().astype(bool)


def gate_statistics(gates_NC: torch.Tensor) -> dict[str, float]:
    """Returns what a gate keeps of N images: "kept" and its extremes.

    And "always_on" and "never_on", how many channels are kept in all images and in none.
    """
    kept_N, on_C = gates_NC.sum(1), gates_NC.sum(0)
    return {
        "kept": float(kept_N.double().mean()),
        "kept_min": float(kept_N.min()),
        "kept_max": float(kept_N.max()),
        "always_on": float((on_C == len(gates_NC)).sum()),
        "never_on": float((on_C == 0).sum()),
    }


def pack_mask(mask_C: np.ndarray) -> bytes:
    """Returns a dynamic mask as a stream file has it: one bit a channel, ⌈M/8⌉ bytes."""
    return np.packbits(mask_C, bitorder="little").tobytes()


def unpack_mask(data: bytes, channels: int) -> np.ndarray:
    """Returns the channel numbers of a mask that `pack_mask` made, ascending int64."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=channels, bitorder="little")
    return np.flatnonzero(bits)
