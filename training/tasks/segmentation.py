"""Semantic segmentation: a class for every pixel, from DeepLab v3."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from latent_store.format.schema import IGNORE_LABEL
from latent_store.views.panels import save_png
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.segmentation_network import SegmentationTail
from training.networks.stages import Stem
from training.tasks.annotations import PixelLabels
from training.tasks.base import Panel, Task
from training.tasks.classes import class_colours
from training.tasks.losses import Counts, TaskLoss
from training.tasks.mean_iou import MeanIou
from training.tasks.pictures import colourise, overlay, read_labels


class SegmentationLoss(TaskLoss):
    """L = L_seg + λ₁ · L_KD [+ λ_rate · rate] [+ 0.5 · L_seg of the auxiliary head].

    Its own parts are "cross_entropy" and "auxiliary", of the outputs "logits" and
    "auxiliary_logits" and the batch's "labels_BHW", integers, 255 = ignore. A batch without a
    labelled pixel has cross-entropy 0, not nan. The head's weight is that of torchvision's
    reference.
    """

    own_weights: ClassVar = {"cross_entropy": 1.0, "auxiliary": 0.5}

    def task_parts(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], counts: Counts
    ) -> dict[str, torch.Tensor]:
        """Returns the cross-entropies of the maps that there are."""
        maps = {"cross_entropy": "logits", "auxiliary": "auxiliary_logits"}
        return {
            part: _cross_entropy(outputs[name], batch["labels_BHW"], counts.labels)
            for part, name in maps.items()
            if name in outputs
        }


class Segmentation(Task):
    """A class for every pixel.

    A prediction is a map, uint8 [H, W] on the network's device; the truth are labels on a canvas
    that may be larger, with 255 where there are none.
    """

    name = "segmentation"
    title = "Semantic segmentation"
    architecture = "DeepLab v3"
    pipeline_tag = "image-segmentation"
    command = "segment"
    purpose = "segment"
    teacher_prefix = "deeplabv3"
    in_paper = True
    fields = ("aspp_width", "dropout", "auxiliary_head")
    tail_fields = ("aspp_width",)
    why_not_one_image = (
        "--batch_size 1 cannot train batch norm behind ASPP's image pooling, which then sees one "
        "value a channel"
    )
    annotations = PixelLabels
    loss = SegmentationLoss
    metric = MeanIou()
    nothing = "every pixel of {images} is labelled 255 (ignore)"
    wanted = "labels"
    score_note = (
        "mIoU comes from one confusion matrix over all images, at original size, over classes that "
        "the labels contain; pixels labelled 255 are left out."
    )
    pictures_note = "Decoded picture, label, and each network's map."
    kept = "maps/{row:06d}.png"

    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns the stem and DeepLab v3's tail, which begins where the features enter."""
        backbone = find_backbone(config.backbone)
        stem, stages = backbone.build(dilated=True)
        for stage in backbone.stages_before(config.entry):
            del stages[stage]
        return stem, SegmentationTail(stages, config)

    def predictions(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor]:
        """Returns the likeliest class of every pixel."""
        maps_BHW = outputs["logits"].argmax(1).to(torch.uint8)
        return [map_HW[:h, :w] for map_HW, (h, w) in zip(maps_BHW, sizes, strict=True)]

    def confidences(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> list[float]:
        """Returns the probability of the likeliest class, mean over each image's pixels."""
        top_BHW = outputs["logits"].float().softmax(1).amax(1)
        return [float(top_HW[:h, :w].mean()) for top_HW, (h, w) in zip(top_BHW, sizes, strict=True)]

    def truth_panels(
        self, truth: np.ndarray, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> list[Panel]:
        """Returns the picture and its label in colour."""
        height, width = picture_HWC.shape[:2]
        label_HWC = colourise(np.asarray(truth)[:height, :width], class_colours(class_names))
        return [("decoded picture", picture_HWC), ("label", label_HWC)]

    def draw(
        self, prediction: torch.Tensor, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> np.ndarray:
        """Returns the map in its classes' colours."""
        return colourise(prediction.cpu().numpy(), class_colours(class_names))

    def write(
        self, base: Path, prediction: Any, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> None:
        """Writes `_labelTrainIds.png`, `_colour.png` and, over the picture, `_overlay.png`."""
        map_HW, colours = prediction.cpu().numpy(), class_colours(class_names)
        for part, picture in (
            ("labelTrainIds", map_HW),
            ("colour", colourise(map_HW, colours)),
            ("overlay", overlay(picture_HWC, map_HW, colours)),
        ):
            save_png(base.with_name(f"{base.name}_{part}.png"), picture)

    def keep(self, path: Path, prediction: torch.Tensor) -> None:
        """Writes the map as a PNG."""
        save_png(path, prediction.cpu().numpy())

    def read_kept(self, path: Path) -> torch.Tensor:
        """See `training.tasks.pictures.read_labels`."""
        return torch.tensor(read_labels(path))


def _cross_entropy(
    logits_BKHW: torch.Tensor, labels_BHW: torch.Tensor, labels: int
) -> torch.Tensor:
    # Summed here: CUDA's own sum over maps adds in whatever order its threads finish.
    errors_BHW = F.cross_entropy(
        logits_BKHW.float(), labels_BHW.long(), ignore_index=IGNORE_LABEL, reduction="none"
    )
    return errors_BHW.sum() / max(labels, 1)


SEGMENTATION = Segmentation()
