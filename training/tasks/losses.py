"""The losses: a task's own + λ₁ · distillation (equation 3), and optionally the rate of the gate.

Every term is a sum over the batch divided by a count. The counts are arguments, so that several
small batches (gradient accumulation), or several processes, give the gradient of one large batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from latent_store.format.schema import FEATURE_STRIDE


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The denominators of a batch's sums; those of batches that make one step are added.

    Attributes:
        labels: Labelled pixels; in detection, objects.
        cells: Positions of the feature map inside the original images.
        samples: Images.
    """

    labels: int = 0
    cells: int = 0
    samples: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            labels=self.labels + other.labels,
            cells=self.cells + other.cells,
            samples=self.samples + other.samples,
        )


def cell_mask(batch: Mapping[str, Any]) -> torch.Tensor:
    """Returns which positions of "features_BCHW" lie inside the original image, bool [B, H/4, W/4].

    "valid_B2" has the height and width in pixels, from the crop's top left corner, that belong to
    the original image (the rest is padding); "feature_stride" is there where it is not 4.
    """
    features_BCHW, valid_B2 = batch["features_BCHW"], batch["valid_B2"]
    stride = batch.get("feature_stride", FEATURE_STRIDE)
    inside_BH, inside_BW = (
        torch.arange(size, device=features_BCHW.device) * stride < valid_B2[:, axis, None]
        for axis, size in enumerate(features_BCHW.shape[-2:])
    )
    return inside_BH[:, :, None] & inside_BW[:, None, :]


class TaskLoss(nn.Module, ABC):
    """A task's own loss + λ₁ · L_KD [+ λ_rate · rate].

    Args:
        lambda_kd: λ₁; 1 in the paper.
        rate_weight: Weighs the bits a pixel that the gate keeps; 0 in the paper.

    Attributes:
        own_weights: Of the task's own parts.
        weights: Of every part that there may be; a weight of 0 leaves its part out.
    """

    own_weights: ClassVar[Mapping[str, float]]

    def __init__(self, *, lambda_kd: float = 1.0, rate_weight: float = 0.0) -> None:
        super().__init__()
        self.weights = {**self.own_weights, "distillation": lambda_kd, "rate": rate_weight}

    @abstractmethod
    def task_parts(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], counts: Counts
    ) -> dict[str, torch.Tensor]:
        """Returns the task's own parts by name."""

    def forward(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], counts: Counts
    ) -> dict[str, torch.Tensor]:
        """Computes the loss of a batch, or of its part of a larger step.

        Args:
            outputs: A network's: what the task's parts need, and "features" and "gate" where a
                term needs them.
            batch: What the task's parts need; "features_BCHW" (with "valid_B2") of a teacher that
                is distilled; "channel_bits_BC" and "pixels_B" (original pixels of the image) for
                the gate's rate.
            counts: Of the whole step.

        Returns:
            "loss", and its parts: the task's own, and "distillation" and "rate" where they exist.
        """
        parts = self.task_parts(outputs, batch, counts)
        if self.weights["distillation"] and "features_BCHW" in batch:
            parts["distillation"] = distillation(outputs["features"], batch, counts.cells)
        if "gate" in outputs:
            parts["rate"] = _rate(outputs["gate"], batch, counts.samples)
        # A weight of 0 leaves the part out: 0 × inf would be nan.
        terms = [self.weights[name] * part for name, part in parts.items() if self.weights[name]]
        return {"loss": torch.stack(terms).sum()} | parts


def distillation(features_BCHW: torch.Tensor, batch: Mapping[str, Any], cells: int) -> torch.Tensor:
    """Returns L_KD, the mean squared error inside the original images, over all channels.

    The batch has the teacher's "features_BCHW", and "valid_B2"; `cells` are the whole step's.
    """
    target_BCHW = batch["features_BCHW"]
    error_BHW = (features_BCHW.float() - target_BCHW).square().sum(1)
    total = (error_BHW * cell_mask(batch)).sum()
    return total / max(cells * target_BCHW.shape[1], 1)


def _rate(gate_BC: torch.Tensor, batch: Mapping[str, Any], samples: int) -> torch.Tensor:
    """Bits per original pixel of the channels that the gate keeps, from the store's ledger."""
    bits_B = (gate_BC * batch["channel_bits_BC"]).sum(1)
    return (bits_B / batch["pixels_B"]).sum() / max(samples, 1)
