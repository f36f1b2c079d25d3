"""Validation: a task's metric over whole images, as training goes on."""

import math
from collections.abc import Sequence

import torch

from latent_store.console import progress
from latent_store.errors import DatasetError
from training.data.loader import WholeImages
from training.networks.networks import Network
from training.selection.base import cut_batch
from training.selection.gated import gate_statistics
from training.tasks.base import Task
from training.tasks.metric import ImageResult
from training.tasks.objective import network_inputs, to_device
from training.trainer.ranks import ALONE, Ranks

Result = tuple[int, ImageResult]
"""Of one image: row, and its part of the scores."""


class Validator:
    """Measures a network on whole images, for any N at each of its cuts.

    Ranks that validate together have their own batches each, and all return the same.
    """

    def __init__(
        self, task: Task, batches: WholeImages, class_names: Sequence[str], *, ranks: Ranks = ALONE
    ) -> None:
        self.task, self.batches, self.ranks = task, batches, ranks
        self.class_names = tuple(class_names)
        self.annotations = task.annotations(num_classes=len(self.class_names))

    @torch.no_grad()
    def __call__(self, network: Network, device: torch.device) -> dict[str, float]:
        """Returns the scores by name, see `Metric.summary`.

        With a gate also what it keeps, see `gate_statistics`. For any N they are means over the
        cuts, and the score at each is "<score>_at/<N>", e.g. "miou_at/32". The network is left in
        the mode that it was in.

        Raises:
            DatasetError: If there was nothing to get right.
        """
        was_training = network.training
        network.eval()
        task, selection = self.task, network.config.channel_selection
        measured: dict[int | None, list[Result]] = {keep: [] for keep in selection.keeps}
        gates: list[torch.Tensor] = []
        hidden = not self.ranks.first
        shown = progress(self.batches, desc="validate", unit="image", leave=False, disable=hidden)
        for batch in shown:
            on_device = to_device(batch, device)
            truths, sizes = self.annotations.truths(on_device), batch["valid_B2"].tolist()
            for keep, results in measured.items():
                part = cut_batch(on_device, keep)
                outputs = network(*network_inputs(network, part), **task.tail_inputs(batch))
                found = task.predictions(outputs, sizes)
                for row, truth, one in zip(batch["rows_B"].tolist(), truths, found, strict=True):
                    result = task.metric.compare(truth, one, len(self.class_names))
                    results.append((row, result))
                if "gate" in outputs:
                    gates.append(outputs["gate"].cpu())
        network.train(was_training)
        each = {keep: self._summary(results) for keep, results in measured.items()}
        names = each[selection.keeps[0]]
        scores = {name: math.fsum(s[name] for s in each.values()) / len(each) for name in names}
        if selection.cuts:
            main = task.metric.score
            scores |= {f"{main}_at/{keep}": found[main] for keep, found in each.items()}
        gates = [gate for part in self.ranks.gather(gates) for gate in part]
        return scores | (gate_statistics(torch.cat(gates)) if gates else {})

    def _summary(self, own: list[Result]) -> dict[str, float]:
        # By row: scores do not depend on which rank an image was measured by.
        everyone = (result for part in self.ranks.gather(own) for result in part)
        results = [result for _, result in sorted(everyone, key=lambda result: result[0])]
        if not any(result.counted for result in results):
            raise DatasetError(
                f"{self.task.nothing.format(images='the validation images')}: "
                f"{self.task.metric.title} is undefined; give another --val_split, or none"
            )
        return self.task.metric.summary(results, self.class_names)
