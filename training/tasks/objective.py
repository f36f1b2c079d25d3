"""A network with its task's loss: what is alike in training whatever is learned."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from training.networks.networks import Network, PixelNetwork
from training.selection.base import cut_batch
from training.selection.cut_norm import averaged
from training.selection.gate import annealed
from training.tasks.base import Task
from training.tasks.losses import Counts, TaskLoss, cell_mask


class Objective(nn.Module):
    """The loss of a network on a batch, from latents or from pixels.

    Args:
        task, network, loss: What is learned, by whom, and one of the task's losses.
        seed: Of all that is drawn.
        temperature: Of the Gumbel-softmax at the start and at the end of the run.
        transform_rate: The transform's share of the learning rate.

    Attributes:
        rate_shares: Of the learning rate, by the name of the network's part; 1 for the others.
        settles: Whether batch norm's statistics are taken anew after the last step. In training a
            cut has its share of the batches only, and between two of them the weights move on: its
            running statistics are of few batches and of older weights. As means over batches that
            all cuts see they fit the weights that the run ends with (Yu and Huang, Universally
            slimmable networks and improved training techniques, ICCV 2019: post-statistics).
            Without cuts it changes nothing that can be measured.
        score: The validation's number that decides which network is the best; more is better.
        unlabelled: What it means that the first epoch has not one label.
    """

    def __init__(
        self,
        task: Task,
        network: Network,
        loss: TaskLoss,
        *,
        seed: int = 0,
        temperature: tuple[float, float] = (1.0, 1.0),
        transform_rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.task, self.network, self.loss = task, network, loss
        self.annotations = task.annotations(num_classes=network.config.num_classes)
        self.selection = network.config.channel_selection
        self.seed, self.temperature = seed, temperature
        self.rate_shares: Mapping[str, float] = {"transform": transform_rate}
        self.settles = bool(self.selection.cuts)
        self.score = task.metric.score
        self.unlabelled = (
            f"{task.nothing.format(images='the images of this epoch')}: train on a split with "
            f"{task.wanted}"
        )
        # Not a submodule: the compiled form shares the network's parameters.
        self._call: list[Callable[..., dict[str, Any]]] = [network]

    def compile_network(self) -> None:
        """Runs the network, or what of it can be, through torch.compile from now on."""
        self._call = [self.task.compile(self.network)]

    def count(self, batch: Mapping[str, Any]) -> Counts:
        """Returns what a step's sums are divided by; add those of its batches."""
        cells = int(cell_mask(batch).sum()) if "features_BCHW" in batch else 0
        labels = self.annotations.count(batch)
        return Counts(labels=labels, cells=cells, samples=len(batch["rows_B"]))

    def forward(
        self, batch: Mapping[str, Any], counts: Counts, epoch: int
    ) -> dict[str, torch.Tensor]:
        """Returns "loss", its parts, and what `Selection.kept` adds.

        Args:
            batch: As `CropLoader` yields it, on the network's device; "x_BCHW" for pixels is
                uint8, or float in [0, 1].
            counts: Of the whole step.
            epoch: Keys what is drawn, with the seed and the row.
        """
        batch, drawn = self.selection.draw(batch, self.seed, epoch)
        more = drawn | self.task.training_inputs(batch, self.seed, epoch)
        outputs = self._call[0](*network_inputs(self.network, batch), **more)
        return self.loss(outputs, batch, counts) | self.selection.kept(batch, outputs)

    @torch.no_grad()
    def settle(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Takes batch norm's statistics anew: plain means over batches, at every cut if it has any.

        Args:
            batches: As for `forward`; the network is in training mode, frozen batch norms are not.
        """
        with averaged(self.network) as add_batch:
            for batch in batches:
                add_batch()
                _, drawn = self.selection.draw(batch, self.seed, 0)
                for keep in self.selection.keeps:
                    part = cut_batch(batch, keep)
                    more = drawn | self.task.training_inputs(part, self.seed, 0)
                    self.network(*network_inputs(self.network, part), **more)

    def anneal(self, progress: float) -> None:
        """Sets what changes over a run: the gate's temperature, at `progress` in [0, 1]."""
        if (gate := getattr(self.network, "gate", None)) is not None:
            gate.temperature.fill_(annealed(*self.temperature, progress))


def network_inputs(network: Network, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, ...]:
    """Returns the positional inputs of a network's forward, as float tensors."""
    if isinstance(network, PixelNetwork):
        x_BCHW = batch["x_BCHW"]
        return (x_BCHW.float().div(255) if x_BCHW.dtype == torch.uint8 else x_BCHW,)
    return batch["y_hat_BCHW"].float(), batch.get("pooled_BC")


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Returns the batch with its tensors on a device."""

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, list):  # "targets"
            return [moved(one) for one in value]
        return to_device(value, device) if isinstance(value, dict) else value

    return {name: moved(value) for name, value in batch.items()}
