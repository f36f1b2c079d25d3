"""Detection as a task: which objects are learned, and what a step draws of them.

Objects marked `difficult` are no training targets, as is usual where the devkit's score is the aim:
the score leaves them out, and a detector is not to be punished for what annotators could hardly
see. They are not ignored either: an anchor or proposal on one counts as background.
"""

from collections.abc import Mapping
from typing import Any

import torch

from training.tasks import NetworkTask


class DetectionTask(NetworkTask):
    """Object detection with Faster R-CNN's losses, see `training.detection_network`."""

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
        """Compiles layers whose shapes depend on the image's size alone.

        Proposals differ in number from image to image, and would compile anew each time.
        """
        network = self.network
        first = [getattr(network, name, None) for name in ("stem", "transform")]
        tail = network.tail
        for part in (*first, tail.layer1, tail.layer2, tail.layer3, tail.layer4, tail.fpn):
            if part is not None:
                part.compile()


def _learned(target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    counts = ~target["difficult"]
    return {"boxes": target["boxes"][counts], "labels": target["labels"][counts].long()}
