"""Tasks: what a network learns from a batch, and how well it does it.

The training loop knows nothing of segmentation or boxes: a task turns a batch into a loss, says
what the loss's sums are to be divided by, and validates. Detection is in
`training.tasks.detection_task`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from latent_store.errors import DatasetError
from training.data.sampling import draw_cut
from training.networks.networks import PixelNetwork
from training.selection.cut_norm import averaged
from training.selection.gate import annealed, gumbel_noise
from training.tasks.losses import Counts, TaskLoss, count
from training.tasks.metrics import ConfusionMatrix
from training.trainer.ranks import ALONE, Ranks


class NetworkTask(nn.Module):
    """What all tasks do alike, from latents or from pixels: cuts, the gate's noise, the loss.

    Args:
        network: A LatentNetwork or PixelNetwork.
        loss: Its loss.
        seed: Of the gate's noise, and of the N that a network for any N is trained with.
        temperature: Of the Gumbel-softmax at the start and at the end of the run.

    Attributes:
        score: The validation's number that decides which network is the best, the higher the
            better.
        unlabelled: What it means that a whole epoch has not one label.
    """

    score: str
    unlabelled: str

    def __init__(
        self,
        network: nn.Module,
        loss: TaskLoss,
        *,
        seed: int = 0,
        temperature: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.seed = seed
        self.temperature = temperature
        # Not a submodule: the compiled form shares the network's parameters.
        self._call: list[Callable[..., dict[str, Any]]] = [network]

    def compile_network(self) -> None:
        """Runs the network through torch.compile from now on."""
        self._call = [torch.compile(self.network)]

    def count(self, batch: Mapping[str, Any]) -> Counts:
        """Returns what a step's sums are divided by; add those of its batches."""
        return count(batch)

    def forward(
        self, batch: Mapping[str, Any], counts: Counts, epoch: int
    ) -> dict[str, torch.Tensor]:
        """Returns "loss" and its parts.

        With a gate, or for any N, "kept" [B] is the number of channels kept; with a gate
        "decisions" [C] says in how many images it keeps each channel when there is no noise.

        Args:
            batch: As `StoreLoader` yields it, on the network's device; "x_BCHW" for pixels is
                uint8, or float in [0, 1].
            counts: Of the whole step.
            epoch: Keys the gate's noise and the N, with the seed and the row.
        """
        batch = self._cut(batch, epoch)
        more = self._noise(batch, epoch) | self.tail_inputs(batch, epoch)
        outputs = self._call[0](*network_inputs(self.network, batch), **more)
        parts = self.loss(outputs, batch, counts)
        if "gate" in outputs:
            parts["kept"] = outputs["gate"].detach().sum(1)
            parts["decisions"] = (outputs["gate_probability"].detach() > 0.5).sum(0)
        elif self.network.config.cuts:
            y_hat_BCHW = batch["y_hat_BCHW"]
            parts["kept"] = torch.full(
                (len(y_hat_BCHW),), float(y_hat_BCHW.shape[1]), device=y_hat_BCHW.device
            )
        return parts

    def tail_inputs(self, batch: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """Returns what the network's tail needs besides features in training."""
        return {}

    @torch.no_grad()
    def settle(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Takes batch norm's statistics anew, at every cut of a network for any N; else nothing.

        In training a cut has its share of the batches only, and between two of them the weights
        move on: its running statistics are of few batches and of older weights. As means over
        batches that all cuts see they fit the weights that the run ends with (Yu and Huang,
        Universally slimmable networks and improved training techniques, ICCV 2019:
        post-statistics).

        Args:
            batches: As for `forward`; the network is in training mode.
        """
        cuts = self.network.config.cuts
        if not cuts:
            return
        with averaged(self.network) as add_batch:
            for batch in batches:
                add_batch()
                for keep in cuts:
                    part = cut_batch(batch, keep)
                    self.network(*network_inputs(self.network, part), **self.tail_inputs(part, 0))

    def anneal(self, progress: float) -> None:
        """Sets what changes over a run: the gate's temperature, at `progress` in [0, 1]."""
        gate = getattr(self.network, "gate", None)
        if gate is not None:
            gate.temperature.fill_(annealed(*self.temperature, progress))

    def _cut(self, batch: Mapping[str, Any], epoch: int) -> Mapping[str, Any]:
        cuts = self.network.config.cuts
        if not cuts:
            return batch
        return cut_batch(batch, draw_cut(self.seed, epoch, batch["batch_rows"], cuts))

    def _noise(self, batch: Mapping[str, Any], epoch: int) -> dict[str, torch.Tensor]:
        gate = getattr(self.network, "gate", None)
        if gate is None:
            return {}
        noise_BC2 = gumbel_noise(self.seed, epoch, batch["rows_B"].tolist(), gate.channels)
        return {"noise_BC2": noise_BC2.to(batch["y_hat_BCHW"].device)}


class SegmentationTask(NetworkTask):
    """Semantic segmentation."""

    score = "miou"
    unlabelled = (
        "none of this epoch's samples has a label that counts (all are 255): encode the split with "
        "labels that its reader knows"
    )


class NetworkValidator(ABC):
    """Measures a network on whole images, for any N at each of its cuts.

    Args:
        batches: Whole images as `WholeImages` yields them; iterated anew each time.
        class_names: By class id.
        ranks: Those that validate together; each has its own batches, all return the same.

    Attributes:
        score: The name of the main score.
    """

    score: str

    def __init__(
        self,
        batches: Iterable[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.batches = batches
        self.class_names = tuple(class_names)

    @torch.no_grad()
    def __call__(self, network: nn.Module, device: torch.device) -> dict[str, float]:
        """Returns the scores by name.

        With a gate also what it keeps, see `gate_statistics`. For any N they are means over the
        cuts, and the score at each is "<score>_at/<N>", e.g. "miou_at/32". The network is left in
        the mode that it was in.
        """
        was_training = network.training
        network.eval()
        cuts = network.config.cuts or (None,)
        collected = {keep: self.begin() for keep in cuts}
        gates: list[torch.Tensor] = []
        for batch in self.batches:
            on_device = to_device(batch, device)
            for keep, results in collected.items():
                inputs = network_inputs(network, cut_batch(on_device, keep))
                outputs = network(*inputs, **self.tail_inputs(batch))
                self.add(results, on_device, outputs)
                if "gate" in outputs:
                    gates.append(outputs["gate"].cpu())
        network.train(was_training)
        each = {keep: self.summary(self.ranks.gather(part)) for keep, part in collected.items()}
        gates = [gate for part in self.ranks.gather(gates) for gate in part]
        names = each[cuts[0]]
        scores = {name: math.fsum(s[name] for s in each.values()) / len(each) for name in names}
        scores |= {f"{self.score}_at/{k}": s[self.score] for k, s in each.items() if k is not None}
        return scores | (gate_statistics(torch.cat(gates)) if gates else {})

    @abstractmethod
    def begin(self) -> Any:
        """Returns what collects results, before the first batch; CPU tensors and plain types."""

    @abstractmethod
    def add(self, results: Any, batch: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Adds one batch's."""

    @abstractmethod
    def summary(self, results: Sequence[Any]) -> dict[str, float]:
        """Returns the scores of all ranks' results.

        Raises:
            DatasetError: If there was nothing to get right.
        """

    def tail_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the network's tail needs besides features in evaluation."""
        return {}


class SegmentationValidator(NetworkValidator):
    """Measures mIoU at original size, from one confusion matrix over all batches.

    The scores are "miou", "accuracy", "constant_miou" and "iou/<class>".
    """

    score = SegmentationTask.score

    def begin(self) -> ConfusionMatrix:
        """Returns an empty matrix."""
        return ConfusionMatrix(len(self.class_names))

    def add(
        self, results: ConfusionMatrix, batch: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        """Counts one batch's pixels; padding is labelled 255, so it counts nowhere."""
        results.update(batch["labels_BHW"], outputs["logits"].argmax(1))

    def summary(self, results: Sequence[ConfusionMatrix]) -> dict[str, float]:
        """Returns the scores of the sum of the matrices."""
        total = self.begin()
        total.counts_KK = sum(matrix.counts_KK for matrix in results)
        if not total.pixels:
            raise DatasetError(
                "mIoU is undefined: no pixel of the validation images has a label (all are 255); "
                "give another --val_split, or none"
            )
        return total.summary(self.class_names)


def headline(scores: Mapping[str, float]) -> str:
    """Returns a validation's main score with its name, e.g. "mIoU 0.7512"; "" without one."""
    named = {"miou": "mIoU", "ap50": "AP50"}
    return ", ".join(f"{named[key]} {scores[key]:.4f}" for key in named if key in scores)


def gate_statistics(gates_NC: torch.Tensor) -> dict[str, float]:
    """Returns what a gate keeps of N images: "kept", its extremes, and channels without a choice.

    Those are "always_on" and "never_on", channels that are kept in all images and in none.
    """
    kept_N, on_C = gates_NC.sum(1), gates_NC.sum(0)
    return {
        "kept": float(kept_N.double().mean()),
        "kept_min": float(kept_N.min()),
        "kept_max": float(kept_N.max()),
        "always_on": float((on_C == len(gates_NC)).sum()),
        "never_on": float((on_C == 0).sum()),
    }


def cut_batch(batch: Mapping[str, Any], keep: int | None) -> Mapping[str, Any]:
    """Returns the batch with the first `keep` ranked channels only; None leaves all."""
    return batch if keep is None else {**batch, "y_hat_BCHW": batch["y_hat_BCHW"][:, :keep]}


def network_inputs(network: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, ...]:
    """Returns the positional inputs of a network's forward, as float tensors."""
    if isinstance(network, PixelNetwork):
        x_BCHW = batch["x_BCHW"]
        return (x_BCHW.float().div(255) if x_BCHW.dtype == torch.uint8 else x_BCHW,)
    return batch["y_hat_BCHW"].float(), batch.get("pooled_BC")


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Returns the batch with its tensors on a device."""
    return {name: _moved(value, device) for name, value in batch.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, list) and value and isinstance(value[0], dict):  # "targets"
        return [to_device(one, device) for one in value]
    return value
