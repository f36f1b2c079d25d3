"""Validation: a task's metric over whole images, as training goes on, and pictures of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from latent_store.console import progress
from latent_store.errors import DatasetError
from latent_store.views.panels import strip
from training.data.loader import WholeImages
from training.networks.networks import Network
from training.selection.base import cut_batch
from training.selection.gated import gate_statistics
from training.tasks.base import Task
from training.tasks.confusion_picture import draw_confusion
from training.tasks.metric import ImageResult
from training.tasks.objective import network_inputs, to_device
from training.trainer.ranks import ALONE, Ranks

Result = tuple[int, ImageResult]
"""Of one image: row, and its part of the scores."""
SHOWN_IMAGES = 3
"""The first of a split, which are drawn at each validation."""
_BLANK = 235
"""Of what boxes are drawn on where no picture is read; no class has such a colour."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    """What one validation found.

    Attributes:
        scores: By name, see `Metric.summary`.
        pictures: By name, uint8 RGB [H, W, 3].
    """

    scores: dict[str, float]
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)


class Validator:
    """Measures a network on whole images, for any N at each of its cuts.

    Ranks that validate together have their own batches each, and all return the same scores.

    Args:
        drawn: Whether the first rank draws pictures too.
    """

    def __init__(
        self,
        task: Task,
        batches: WholeImages,
        class_names: Sequence[str],
        *,
        ranks: Ranks = ALONE,
        drawn: bool = False,
    ) -> None:
        self.task, self.batches, self.ranks = task, batches, ranks
        self.drawn = drawn and ranks.first
        self.class_names = tuple(class_names)
        self.annotations = task.annotations(num_classes=len(self.class_names))

    @torch.no_grad()
    def __call__(self, network: Network, device: torch.device) -> Validation:
        """Measures the network, which is left in the mode that it was in.

        With a gate the scores tell also what it keeps, see `gate_statistics`. For any N they are
        means over the cuts, and the score at each is "<score>_at/<N>", e.g. "miou_at/32"; pictures
        are of the last cut.

        Raises:
            DatasetError: If there was nothing to get right.
        """
        was_training = network.training
        network.eval()
        task, selection = self.task, network.config.channel_selection
        measured: dict[int | None, list[Result]] = {keep: [] for keep in selection.keeps}
        gates: list[torch.Tensor] = []
        pictures: dict[str, np.ndarray] = {}
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
            if self.drawn and len(pictures) < SHOWN_IMAGES:
                pictures |= self._drawn(batch, found)
        network.train(was_training)
        everyone = {keep: self._everyone(results) for keep, results in measured.items()}
        each = {keep: self._summary(results) for keep, results in everyone.items()}
        names = each[selection.keeps[0]]
        scores = {name: math.fsum(s[name] for s in each.values()) / len(each) for name in names}
        if selection.cuts:
            main = task.metric.score
            scores |= {f"{main}_at/{keep}": found[main] for keep, found in each.items()}
        gates = [gate for part in self.ranks.gather(gates) for gate in part]
        scores |= gate_statistics(torch.cat(gates)) if gates else {}
        if self.drawn:
            confusion_KK = task.metric.confusion(everyone[selection.keeps[-1]])
            if confusion_KK is not None:
                pictures["confusion"] = draw_confusion(confusion_KK, self.class_names)
        return Validation(scores=scores, pictures=pictures)

    def _drawn(self, batch: Mapping[str, Any], found: Sequence[Any]) -> dict[str, np.ndarray]:
        """Returns strips of a batch's first images: what there is, and what the network says."""
        strips, truths = {}, self.annotations.truths(batch)
        ids = batch["sample_ids"][:SHOWN_IMAGES]
        for number, sample_id in enumerate(ids):
            height, width = batch["valid_B2"][number].tolist()
            # Of latents there is no picture: what they decode to is the reports' to show.
            picture_HWC = np.full((height, width, 3), _BLANK, np.uint8)
            panels = []
            if "x_BCHW" in batch:
                picture_HWC = batch["x_BCHW"][number, :, :height, :width].permute(1, 2, 0).numpy()
                panels = [("picture", picture_HWC)]
            truth = self.task.truth_panels(truths[number], picture_HWC, self.class_names)
            panels += [(title, panel) for title, panel in truth if panel is not picture_HWC]
            said_HWC = self.task.draw(found[number], picture_HWC, self.class_names)
            strips[sample_id] = strip([*panels, ("the network", said_HWC)])
        return strips

    def _everyone(self, own: list[Result]) -> list[ImageResult]:
        # By row: scores do not depend on which rank an image was measured by.
        parts = (result for part in self.ranks.gather(own) for result in part)
        return [result for _, result in sorted(parts, key=lambda result: result[0])]

    def _summary(self, results: list[ImageResult]) -> dict[str, float]:
        if not any(result.counted for result in results):
            raise DatasetError(
                f"{self.task.nothing.format(images='the validation images')}: "
                f"{self.task.metric.title} is undefined; give another --val_split, or none"
            )
        return self.task.metric.summary(results, self.class_names)
