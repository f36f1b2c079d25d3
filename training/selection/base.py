"""A way of choosing channels, as an object: all that depends on it is asked of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from latent_store import LatentStore
from latent_store.codec import DecodedStream, StreamFile
from latent_store.components.latents import LatentsReader
from latent_store.errors import LatentStoreError
from latent_store.format.schema import CodecSpec
from training.data.stored_channels import StoredChannels
from training.selection.cut_norm import STATISTICS
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
    channels come in as they are stored, and go to the network as they come.

    Attributes:
        name: In flags, checkpoints and points.
        summary: The channels that such a network gets, in words.
        incoming: What comes in, in words.
        required: Flags that are given with it.
        optional: Flags that may be given with it; each of both kinds belongs to those that name it.
        takes_all: Whether every channel is sent.
        names_channels: Whether a network's config names its channels.
        for_any_n: Whether one network works with several numbers of channels.
        latent_channels: M of the codec.
        channels: Numbers of the channels that come in, in their order; None for all M.
        cuts: The numbers of channels that the network works with, rising; None for one only.
        gate_pool, gate_bias: Of the gate, see `NetworkConfig`.

    Raises:
        LatentStoreError: The values contradict each other.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    incoming: ClassVar[str] = "channels"
    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    takes_all: ClassVar[bool] = False
    names_channels: ClassVar[bool] = False
    for_any_n: ClassVar[bool] = False

    latent_channels: int
    channels: Numbers | None = None
    cuts: Numbers | None = None
    gate_pool: str = "mean"
    gate_bias: str = "neutral"

    def __post_init__(self) -> None:
        if self.gate_pool not in ("mean", "rms"):
            raise LatentStoreError(f"gate_pool must be one of mean, rms, got {self.gate_pool!r}")
        parse_gate_bias(self.gate_bias)
        for field, wanted in (("channels", self.names_channels), ("cuts", self.for_any_n)):
            value = getattr(self, field)
            if (value is not None) != wanted:
                raise LatentStoreError(
                    f"a network with selection {self.name} names {'its' if wanted else 'no'} "
                    f"{field}; got selection {self.name!r} with {field} {value}"
                )

    @classmethod
    def find(cls, flags: Any, store: LatentStore, spec: CodecSpec) -> Self:
        """Returns the selection of a network that is to be trained on a codec's latents.

        Args:
            flags: Those of `train-from-store`, see `ModelConfig`.
            store: Has the latents.
            spec: The codec.

        Raises:
            RankingError: The store has no such channels.
        """
        gate = {"gate_pool": flags.gate_pool, "gate_bias": flags.gate_bias}
        found: dict[str, Any] = cls.find_channels(flags, store, spec) | gate
        return cls(latent_channels=spec.channels, **found)

    @classmethod
    def find_channels(
        cls, flags: Any, store: LatentStore, spec: CodecSpec
    ) -> dict[str, Numbers | None]:
        """Returns `channels` and `cuts`, see `find`."""
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
        return self.accepts if self.names_channels else (None,)

    def make_gate(self) -> Gate:
        """Returns the gate that a new network has."""
        return None

    def adapt(self, network: Any) -> None:  # noqa: B027 - most ways do nothing here
        """Changes a new network's layers."""

    def select(self, network: Any, y_hat_BCHW: torch.Tensor, *gate_inputs: Any) -> Selected:
        """Returns what the transform gets of scaled latents, and outputs of the network.

        Args:
            network: With its gate, if that is not at the camera.
            y_hat_BCHW: The scaled latents that came in.
            gate_inputs: `pooled_BC` and `noise_BC2`, or None, see `ChannelGate.forward`.

        Raises:
            ValueError: A gate needs `pooled_BC`.
        """
        return y_hat_BCHW, {}

    def matching(
        self, name: str, value: torch.Tensor, theirs: Selection | None = None
    ) -> torch.Tensor:
        """Returns an entry of another network's state dict as one with this selection has it.

        Batch norm statistics are for every cut the other network's at that cut; at its largest
        where it has no such cut, and its only ones where it has none.

        Args:
            name: Of the entry.
            value: The other network's.
            theirs: The other network's selection; None for one on pixels.
        """
        cuts = None if theirs is None else theirs.cuts
        if not name.endswith(STATISTICS) or cuts == self.cuts:
            return value
        have, per_cut = cuts or (0,), value if cuts else value[None]
        places = [have.index(n) if n in have else -1 for n in self.accepts]
        return per_cut[places] if self.cuts else per_cut[places[0]]

    def set_statistics(  # noqa: B027 - most ways do nothing here
        self, network: Any, latents: LatentsReader, rows: np.ndarray
    ) -> None:
        """Fixes what a new network knows of the training split's `rows`."""

    def draw(self, batch: Batch, seed: int, epoch: int) -> tuple[Batch, Tensors]:
        """Returns a batch as it is trained on, and further inputs of the network.

        Everything random depends on seed, epoch and rows only.
        """
        return batch, {}

    def kept(self, batch: Batch, outputs: Tensors) -> Tensors:
        """Returns "kept" [B], how many channels were kept, where that is no constant.

        A gate adds "decisions" [C]: in how many images it keeps each channel without noise.
        """
        return {}

    def anneal(self, network: Any, temperature: float) -> None:  # noqa: B027 - most ways do nothing here
        """Sets the temperature that decisions are drawn at."""

    @abstractmethod
    def receiver(self, streams: StoredStreams, keep: int | None, gate: Gate) -> StreamReceiver:
        """Returns what receives a store's streams.

        Args:
            streams: Of the network's codec.
            keep: One of `keeps`.
            gate: The network's, see `split_gate`.

        Raises:
            RankingError: The store has other channels than the network was trained on.
        """

    @abstractmethod
    def sent(self, y_hat_BCHW: torch.Tensor, keep: int | None, gate: Gate) -> dict[str, Any]:
        """Returns what a camera sends: the arguments of `pack_stream` that say which channels.

        Args:
            y_hat_BCHW: The latents of all channels.
            keep: How many channels are asked for; None for the network's.
            gate: The network's, see `split_gate`.
        """

    @abstractmethod
    def accepted(self, stream: StreamFile, keep: int | None = None) -> int | None:
        """Returns how many of a stream's channels the network takes; None if it can't use it.

        Args:
            stream: What came.
            keep: How many channels are asked for; None for the most that the network can use.
        """

    def network_input(self, decoded: DecodedStream) -> np.ndarray:
        """Returns the network's input, integers [K, h, w]."""
        return decoded.y_hat_KHW if self.names_channels else decoded.full()

    def __str__(self) -> str:
        many = f", {len(self.numbers)} channels" if self.names_channels else ""
        return f"selection {self.name}{many}"

    def kind(self, keep: int | None) -> str:
        """Returns the network's row in the paper's table of times, or the like of it."""
        return f"{self.name}, {keep or len(self.numbers)} channels" if self.channels else self.name

    def label_at(self, label: str, keep: int | None) -> str:
        """Returns a network's name in tables where it gets `keep` channels, one of `keeps`."""
        return label


def cut_batch(batch: Batch, keep: int | None) -> Batch:
    """Returns the batch with the first `keep` incoming channels only; None leaves all."""
    return batch if keep is None else {**batch, "y_hat_BCHW": batch["y_hat_BCHW"][:, :keep]}
