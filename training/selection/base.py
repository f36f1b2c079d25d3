"""A way of choosing channels, as an object: all that depends on it is asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from latent_store import LatentStore
from latent_store.codec import StreamFile
from latent_store.errors import LatentStoreError
from latent_store.format.schema import CodecSpec
from training.data.store_source import StoredChannels
from training.selection.gate import ChannelGate, parse_gate_bias
from training.selection.rates import StoredStreams, StreamReceiver

Batch = Mapping[str, Any]
"""A loader's batch, on the network's device."""
Tensors = dict[str, torch.Tensor]
"""A network's inputs or outputs by name."""
Numbers = tuple[int, ...]
Gate = ChannelGate | None
Selected = tuple[torch.Tensor, Tensors]


@dataclass(frozen=True, kw_only=True)
class Selection(ABC):
    """A way of choosing channels, with the channels of one network.

    Its class knows the flags, and finds the channels in a store. Here is what most ways do alike:
    channels come in as they are stored, and go to the network as they come, without a gate.

    Attributes:
        name: In flags, checkpoints and points.
        summary: The channels that such a network gets, in words.
        required: Flags that are given with it.
        optional: Flags that may be given with it; each of both kinds belongs to those that name it.
        takes_all: Whether every channel is sent.
        names: Which of `channels` and `cuts` a network's config names; the others are None.
        latent_channels, channels, cuts, gate_pool, gate_bias: See `NetworkConfig`.

    Raises:
        LatentStoreError: The values contradict each other.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    takes_all: ClassVar[bool] = False
    names: ClassVar[Sequence[str]] = ()

    latent_channels: int
    channels: Numbers | None = None
    cuts: Numbers | None = None
    gate_pool: str = "mean"
    gate_bias: str = "neutral"

    def __post_init__(self) -> None:
        if self.gate_pool not in ("mean", "rms"):
            raise LatentStoreError(f"gate_pool must be one of mean, rms, got {self.gate_pool!r}")
        parse_gate_bias(self.gate_bias)
        for field in ("channels", "cuts"):
            value, wanted = getattr(self, field), field in self.names
            if (value is not None) != wanted:
                raise LatentStoreError(
                    f"a network with selection {self.name} names {'its' if wanted else 'no'} "
                    f"{field}; got selection {self.name!r} with {field} {value}"
                )

    @classmethod
    def find_channels(cls, flags: Any, store: LatentStore, spec: CodecSpec) -> dict[str, Numbers]:
        """Returns what a new network `names`, from `ModelConfig` and a store's latents of a codec.

        Raises:
            RankingError: The store has no such channels.
        """
        return {}

    @classmethod
    @abstractmethod
    def label(cls, flags: Any) -> str:
        """Returns a new network's name in tables, from the flags of `train-from-store`."""

    def stored(self, ranking_id: str | None) -> StoredChannels:
        """Returns what a network is trained on of a store; `ranking_id` is that of the flags."""
        return StoredChannels(channels=self.channels)

    @property
    def numbers(self) -> Numbers:
        """The numbers of the channels that come in, in their order."""
        return tuple(range(self.latent_channels)) if self.channels is None else self.channels

    @property
    def accepts(self) -> Numbers:
        """The numbers of channels that may come in, rising."""
        return self.cuts or (len(self.numbers),)

    @property
    def keeps(self) -> tuple[int | None, ...]:
        """The numbers of kept channels that a network is measured at; None if it names none."""
        return self.accepts if self.channels else (None,)

    def make_gate(self) -> Gate:
        """Returns the gate that a new network has."""
        return None

    def adapt(self, network: Any) -> None:  # noqa: B027 - most ways do nothing here
        """Changes a new network's layers."""

    def select(self, network: Any, y_hat_BCHW: torch.Tensor, *gate_inputs: Any) -> Selected:
        """Returns what the transform gets of scaled latents that came in, and more outputs.

        Args:
            network: With its gate, if that is not at the camera.
            gate_inputs: `pooled_BC` and `noise_BC2`, or None, see `ChannelGate.forward`.

        Raises:
            ValueError: A gate needs `pooled_BC`.
        """
        return y_hat_BCHW, {}

    def draw(self, batch: Batch, seed: int, epoch: int) -> tuple[Batch, Tensors]:
        """Returns a batch as it is trained on, and further inputs of the network.

        Everything random depends on seed, epoch and rows only.
        """
        return batch, {}

    def kept(self, batch: Batch, outputs: Tensors) -> Tensors:
        """Returns "kept" [B], how many channels were kept, where that is no constant.

        A gate adds "decisions" [C]: in how many images it keeps each channel without noise.
        """
        if "gate" in outputs:
            decided_BC = outputs["gate_probability"].detach() > 0.5
            return {"kept": outputs["gate"].detach().sum(1), "decisions": decided_BC.sum(0)}
        if self.cuts:
            images, keep = batch["y_hat_BCHW"].shape[:2]
            return {"kept": batch["y_hat_BCHW"].new_full((images,), keep, dtype=torch.float32)}
        return {}

    @abstractmethod
    def receiver(self, streams: StoredStreams, keep: int | None, gate: Gate) -> StreamReceiver:
        """Returns what receives a store's streams of the network's codec, at one of `keeps`.

        Raises:
            RankingError: The store has other channels than the network was trained on.
        """

    @abstractmethod
    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        """Returns what a camera sends: the arguments of `pack_stream` that say which channels.

        Args:
            y_hat_BCHW: The latents of all channels.
            keep: How many channels are asked for; None for the network's.
            gate: The network's, see `split_gate`; so in `receiver`.
        """

    @abstractmethod
    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        """Returns how many of a stream's channels the network takes; None if it can't use it.

        `keep` says how many are asked for; None for the most that the network can use.
        """

    def __str__(self) -> str:
        if self.cuts:
            return f"selection {self.name}, cuts {', '.join(map(str, self.cuts))}"
        many = f", {len(self.channels)} channels" if self.channels else ""
        return f"selection {self.name}{many}"

    def kind(self, keep: int | None) -> str:
        """Returns the network's row in the paper's table of times, or the like of it."""
        return f"{self.name}, {keep or len(self.numbers)} channels" if self.channels else self.name

    def label_at(self, label: str, keep: int | str | None) -> str:
        """Returns a network's name in tables at one of `keeps`, e.g. "any-16 (gate)"."""
        name, bracket, rest = label.partition(" (")
        return f"{name}-{keep}{bracket}{rest}" if self.cuts else label


def cut_batch(batch: Batch, keep: int | None) -> Batch:
    """Returns the batch with the first `keep` incoming channels only; None leaves all."""
    return batch if keep is None else {**batch, "y_hat_BCHW": batch["y_hat_BCHW"][:, :keep]}
