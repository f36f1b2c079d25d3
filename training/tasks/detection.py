"""Object detection: boxes with classes and scores, from Faster R-CNN.

Objects marked `difficult` are no training targets, as is usual where the devkit's score is the aim:
the score leaves them out, and a detector is not to be punished for what annotators could hardly
see. They are not ignored either: an anchor or proposal on one counts as background.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from latent_store.components.features import STEM
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.format.boxes import Boxes
from latent_store.storage.local_files import write_text
from latent_store.views.panels import save_png
from training.networks.backbones import find_backbone
from training.networks.detection_network import DetectionLayers, DetectionTail
from training.networks.network_config import NetworkConfig
from training.networks.networks import Network
from training.networks.stages import Stem
from training.tasks.annotations import ObjectBoxes
from training.tasks.average_precision import AveragePrecision
from training.tasks.base import Panel, Task
from training.tasks.detections import SHOWN_SCORE, Detections
from training.tasks.losses import Counts, TaskLoss
from training.tasks.pictures import draw_detections, draw_objects

_KEPT = {"boxes": "boxes_N4", "labels": "labels_N", "scores": "scores_N"}
"""Names in files, and of the fields of `Detections`."""


class DetectionLoss(TaskLoss):
    """L = L_detection + λ₁ · L_KD [+ λ_rate · rate].

    Its own parts are outputs of `DetectionTail`, which are already means over what was drawn of
    each image; they count equally, as in torchvision.
    """

    own_weights: ClassVar = dict.fromkeys(
        ("objectness", "proposal_box", "classification", "box"), 1.0
    )

    def task_parts(
        self, outputs: Mapping[str, Any], batch: Mapping[str, Any], counts: Counts
    ) -> dict[str, torch.Tensor]:
        """Returns each part's mean over the images of the step, or this batch's share of it."""
        return {name: outputs[name].sum() / max(counts.samples, 1) for name in self.own_weights}


class Detection(Task):
    """Boxes of objects, with class and score.

    A prediction is `Detections`, the truth `Boxes`, in pixels of the original picture.
    """

    name = "detection"
    title = "Object detection"
    architecture = "Faster R-CNN with FPN"
    pipeline_tag = "object-detection"
    command = "detect"
    purpose = "find the objects of"
    teacher_prefix = "fasterrcnn"
    fields = tail_fields = ("fpn_width", "box_head_width", "anchor_size")
    annotations = ObjectBoxes
    loss = DetectionLoss
    metric = AveragePrecision()
    nothing = "no object of {images} counts (there is none, or all are difficult)"
    wanted = "objects that are not difficult"
    score_note = (
        "AP50 is the VOC devkit's average precision at an overlap of 0.5 as it is since 2010, the "
        "area below the curve; AP50-07 is that of 2007, the mean at 11 recalls. A detection "
        "belongs to the object that it overlaps best, even where that is taken. Both are means "
        "over the classes of which an object counts; objects marked difficult neither count nor "
        "punish. COCO AP is pycocotools': overlaps 0.5 to 0.95, 101 recalls, at most 100 "
        "detections of a class in an image, difficult objects as its crowds."
    )
    pictures_note = (
        "Decoded picture with the objects' boxes (dashed: difficult), and with each network's "
        f"detections from a score of {SHOWN_SCORE} on."
    )
    kept = "boxes/{row:06d}.json"

    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns the stem and Faster R-CNN's tail.

        The backbone has its strides as they are: the pyramid needs every scale, and what dilation
        saves is resolution that the pyramid's finer levels have.

        Raises:
            LatentStoreError: Features enter behind a stage, whose map the pyramid lacks then.
        """
        if config.entry != STEM:
            raise LatentStoreError(
                f"--entry {config.entry}: a feature pyramid takes every stage's map; give --entry "
                f"{STEM}"
            )
        stem, stages = find_backbone(config.backbone).build(dilated=False)
        return stem, DetectionTail(stages, config)

    def countable(self, network: Network) -> nn.Module:
        """Returns the layers without what is done to boxes between them."""
        return DetectionLayers(network)

    def compile(self, network: Network) -> Callable[..., dict[str, Any]]:
        """Compiles what depends on the image's size alone: all up to the pyramid.

        Proposals differ in number from image to image, and would compile anew each time. Whole
        functions, since what modules compile for themselves counts together towards one limit.
        """
        for part, method in ((network, "transformed"), (network.tail, "pyramid")):
            setattr(part, method, _compiled_to_learn(getattr(part, method)))
        return network

    def tail_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the valid extents, which boxes are clipped to."""
        return {"valid_B2": batch["valid_B2"]}

    def training_inputs(self, batch: Mapping[str, Any], seed: int, epoch: int) -> dict[str, Any]:
        """Returns valid extents, the objects that are learned, and what keys the sampling."""
        return {
            "valid_B2": batch["valid_B2"],
            "targets": [_learned(target) for target in batch["targets"]],
            "sample_keys": [(seed, epoch, row) for row in batch["rows_B"].tolist()],
        }

    def predictions(
        self, outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the boxes, which lie in the original picture already."""
        return [Detections.from_output(found) for found in outputs["detections"]]

    def truth_panels(
        self, truth: Boxes, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> list[Panel]:
        """Returns the picture with its objects."""
        return [("objects", draw_objects(picture_HWC, truth, class_names))]

    def draw(
        self, prediction: Detections, picture_HWC: np.ndarray, class_names: Sequence[str]
    ) -> np.ndarray:
        """Returns the picture with the detections that reach `SHOWN_SCORE`."""
        return draw_detections(picture_HWC, prediction, class_names)

    def write(
        self,
        base: Path,
        prediction: Detections,
        picture_HWC: np.ndarray,
        class_names: Sequence[str],
        *,
        least_score: float = SHOWN_SCORE,
    ) -> None:
        """Writes `_boxes.json`, surest first, and `_boxes.png` of what reaches `least_score`."""
        objects = [
            {
                "class": class_names[prediction.labels_N[index]],
                "score": float(prediction.scores_N[index]),
                "box": prediction.boxes_N4[index].tolist(),
            }
            for index in np.argsort(-prediction.scores_N, kind="stable")
        ]
        height, width = picture_HWC.shape[:2]
        content = {"height": height, "width": width, "objects": objects}
        path = base.with_name(f"{base.name}_boxes.json")
        write_text(path, json.dumps(content, indent=1) + "\n")
        drawn_HWC = draw_detections(picture_HWC, prediction, class_names, least_score)
        save_png(path.with_suffix(".png"), drawn_HWC)

    def keep(self, path: Path, prediction: Detections) -> None:
        """Writes the detections as JSON."""
        values = {name: getattr(prediction, field).tolist() for name, field in _KEPT.items()}
        write_text(path, json.dumps(values))

    def read_kept(self, path: Path) -> Detections:
        """Reads the detections."""
        try:
            values = json.loads(path.read_text())
            return Detections(**{field: values[name] for name, field in _KEPT.items()})
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} holds no detections ({error}); delete it") from error


def _compiled_to_learn(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is compiled where gradients are.

    Validation has pictures of every size, and batch norms that settle another momentum for each
    batch: both would compile anew and anew.
    """
    compiled = torch.compile(plain)

    def either(*args: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(*args)

    return either


def _learned(target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    counts = ~target["difficult"]
    return {"boxes": target["boxes"][counts], "labels": target["labels"][counts].long()}


DETECTION = Detection()
