"""Object detection: boxes with classes and scores, from Faster R-CNN."""

from torch import nn
from torchvision import models

from training.networks.detection_network import DetectionTail
from training.networks.networks import NetworkConfig, Stem
from training.tasks.base import Task
from training.tasks.object_boxes import ObjectBoxes


class Detection(Task):
    """Boxes of objects, with class and score."""

    name = "detection"
    annotations = ObjectBoxes

    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns the stem and Faster R-CNN's tail.

        The ResNet has its strides as they are: the pyramid needs every scale, and what dilation
        saves is resolution that the pyramid's finer levels have.
        """
        resnet = models.get_model(config.backbone, weights=None)
        return Stem(resnet), DetectionTail(resnet, config)


DETECTION = Detection()
