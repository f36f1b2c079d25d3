"""Semantic segmentation: a class for every pixel, from DeepLab v3."""

from torch import nn

from training.networks.networks import NetworkConfig, Stem, Tail, build_backbone
from training.tasks.base import Task
from training.tasks.pixel_labels import PixelLabels


class Segmentation(Task):
    """A class for every pixel."""

    name = "segmentation"
    annotations = PixelLabels

    def build_parts(self, config: NetworkConfig) -> tuple[Stem, nn.Module]:
        """Returns the stem and DeepLab v3's tail."""
        resnet = build_backbone(config.backbone)
        return Stem(resnet), Tail(resnet, config)


SEGMENTATION = Segmentation()
