"""Detection as a task: which objects are learned, and what a step draws of them.

Objects marked `difficult` are no training targets, as is usual where the devkit's score is the aim:
the score leaves them out, and a detector is not to be punished for what annotators could hardly
see. They are not ignored either: an anchor or proposal on one counts as background.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from latent_store.errors import DatasetError
from latent_store.format.boxes import Boxes
from training.networks.networks import PixelNetwork
from training.tasks.detection_metrics import Detections, DetectionScores
from training.tasks.tasks import NetworkTask, NetworkValidator

Result = tuple[int, Boxes, Detections]
"""Of one image: row, what is there, what was found."""


class DetectionTask(NetworkTask):
    """Object detection with Faster R-CNN's losses, see `training.networks.detection_network`."""

    score = "ap50"
    unlabelled = (
        "none of this epoch's samples has an object that counts (all images are empty, or all "
        "their objects difficult): train on a split with objects"
    )

    def tail_inputs(self, batch: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """Returns valid extents, the objects that are learned, and what keys the sampling."""
        return {
            "valid_B2": batch["valid_B2"],
            "targets": [_learned(target) for target in batch["targets"]],
            "sample_keys": [(self.seed, epoch, row) for row in batch["rows_B"].tolist()],
        }

    def compile_network(self) -> None:
        """Compiles what depends on the image's size alone: all up to the pyramid.

        Proposals differ in number from image to image, and would compile anew each time. Whole
        functions, since what modules compile for themselves counts together towards one limit.
        """
        network = self.network
        if isinstance(network, PixelNetwork):
            network.stem.compile()
        else:
            network.transformed = torch.compile(network.transformed)
        network.tail.pyramid = torch.compile(network.tail.pyramid)


class DetectionValidator(NetworkValidator):
    """Measures average precision in pixels of the original pictures.

    The scores are "ap50" (of the VOC devkit since 2010), "ap50_07" (as in 2007), "coco_ap" and
    "ap50/<class>"; difficult objects count as in `training.tasks.detection_metrics`.
    """

    score = DetectionTask.score

    def begin(self) -> list[Result]:
        """Returns an empty list."""
        return []

    def tail_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the valid extents, which boxes are clipped to."""
        return {"valid_B2": batch["valid_B2"]}

    def add(
        self, results: list[Result], batch: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> None:
        """Collects one batch's boxes."""
        found = [Detections.from_output(one) for one in outputs["detections"]]
        truths = [_truth(target) for target in batch["targets"]]
        results += zip(batch["rows_B"].tolist(), truths, found, strict=True)

    def summary(self, results: Sequence[list[Result]]) -> dict[str, float]:
        """Returns the scores of all images."""
        scores = DetectionScores(len(self.class_names))
        # By row: equal scores rank in the order of the images, whatever rank they came from.
        for _, truth, found in sorted((r for part in results for r in part), key=lambda r: r[0]):
            scores.update(truth, found)
        if not scores.objects:
            raise DatasetError(
                "AP is undefined: no object of the validation images counts (there is none, or all "
                "are difficult); give another --val_split, or none"
            )
        return scores.summary(self.class_names)


def _truth(target: Mapping[str, torch.Tensor]) -> Boxes:
    labels_N, difficult_N = target["labels"].cpu().numpy(), target["difficult"].cpu().numpy()
    return Boxes(
        boxes_N4=target["boxes"].cpu().numpy(),
        labels_N=labels_N,
        difficult_N=difficult_N,
        truncated_N=difficult_N & False,  # no score asks for it
    )


def _learned(target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    counts = ~target["difficult"]
    return {"boxes": target["boxes"][counts], "labels": target["labels"][counts].long()}
