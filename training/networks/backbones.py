"""The backbones: classification networks whose layers ours are made of, one object each.

    x [B,3,H,W] ─ stem ─► F [B,D,H/4,W/4] ─ four stages ─► maps at H/4, H/8, H/16 and H/32

The stem is everything up to a quarter of the size: the "first two layers" of a ResNet that the
paper removes and whose output it distils. Stem and stages keep torchvision's names inside ours
(`stem.conv1`, `tail.layer1`), so that its weights fit. Other modules ask the backbone for its
channels and its names, and parsers of flags for these alone: torch is loaded by what builds.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from latent_store.components.features import STEM
from latent_store.errors import LatentStoreError
from latent_store.format.schema import FEATURE_STRIDE

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

    from training.networks.stages import Stem

ENTRIES = (STEM, "layer1", "layer2")
"""Layers whose output the transform of latents can imitate; the paper's is the stem."""


class Backbone(ABC):
    """One backbone.

    Attributes:
        name: torchvision's, and the one of the flag `--backbone` and of checkpoints.
        stem_channels: Of the features at H/4 that the stem gives.
        stage_names: Of the four stages inside a tail.
        stage_channels: Of the four stages' maps.
        output_stride: Pixels that one position of the last map covers once it is dilated, 8 or 16.
        signed_features: Whether what an entry gives may be negative; behind a ReLU it is not.
    """

    name: str
    stem_channels: int
    stage_names: tuple[str, ...]
    stage_channels: tuple[int, ...]
    output_stride: int
    signed_features = False

    def stages_before(self, entry: str) -> tuple[str, ...]:
        """Returns the stages that lie before an entry, which a network on latents lacks."""
        return self.stage_names[: ENTRIES.index(entry)]

    def channels_at(self, entry: str) -> int:
        """Returns the channels of the features at an entry."""
        return (self.stem_channels, *self.stage_channels)[ENTRIES.index(entry)]

    def stride_at(self, entry: str) -> int:
        """Returns the pixels that a position covers at an entry; layer1 keeps the stem's size."""
        return 8 if entry == ENTRIES[2] else FEATURE_STRIDE

    @abstractmethod
    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        """Returns stem and stages with fresh weights.

        Args:
            dilated: Whether stages keep the size and dilate instead, down to `output_stride`, as
                DeepLab v3 has it; else the last map is at H/32. Weights have the same names and
                shapes either way.
        """

    def weights(self) -> WeightsEnum:
        """Returns torchvision's best weights from ImageNet."""
        from torchvision import models

        return models.get_model_weights(self.name).DEFAULT

    def own_name(self, name: str) -> str:
        """Returns the name that an entry of torchvision's has inside our stem and tail.

        Args:
            name: In the state dict of the backbone, or of a DeepLab v3 or Faster R-CNN on it.
        """
        name = name.removeprefix("backbone.").removeprefix("body.")
        # torchvision's hub keeps files from before 0.13: convolutions where there are blocks now.
        name = re.sub(r"^(fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
        return re.sub(r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)


class ResNet(Backbone):
    """A ResNet; its stem is conv1, bn1, relu and maxpool.

    Args:
        name: torchvision's.
        basic: Whether it is made of BasicBlocks. These refuse dilation, so layer4 is dilated here,
            to output stride 16, for small machines; the others have output stride 8 as
            torchvision's DeepLab v3.
    """

    stem_channels = 64
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, name: str, *, basic: bool = False) -> None:
        self.name, self.basic = name, basic
        self.stage_channels = (64, 128, 256, 512) if basic else (256, 512, 1024, 2048)
        self.output_stride = 16 if basic else 8

    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        from torchvision import models

        from training.networks.stages import Stem

        replaced = dilated and not self.basic
        options = {"replace_stride_with_dilation": [False, True, True]} if replaced else {}
        resnet = models.get_model(self.name, weights=None, **options)
        if dilated and self.basic:
            _dilate(resnet.layer4)
        stem = Stem({part: getattr(resnet, part) for part in ("conv1", "bn1", "relu", "maxpool")})
        return stem, {stage: getattr(resnet, stage) for stage in self.stage_names}


class MobileNetV2(Backbone):
    """MobileNetV2; its stem is features[0:3], which end in a linear bottleneck: F may be negative.

    Stages end where the size halves, as in a ResNet; features[18], the widening to 1280 channels
    for the classifier, is left out, as in torchvision's DeepLab v3 on MobileNetV3. Blocks keep
    torchvision's numbers: `features.7` is `tail.layer3.7`.
    """

    name = "mobilenet_v2"
    stem_channels = 24
    stage_names = ("layer1", "layer2", "layer3", "layer4")
    stage_channels = (24, 32, 96, 320)
    output_stride = 16
    signed_features = True
    _STEM_BLOCKS = 3
    _STAGE_ENDS = (4, 7, 14, 18)

    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        from torch import nn
        from torchvision import models

        from training.networks.stages import Stem

        blocks: Any = models.mobilenet_v2(weights=None).features
        starts = (self._STEM_BLOCKS, *self._STAGE_ENDS)
        stages: dict[str, Any] = {
            name: nn.Sequential(OrderedDict((str(i), blocks[i]) for i in range(start, end)))
            for name, start, end in zip(self.stage_names, starts, self._STAGE_ENDS, strict=False)
        }
        if dilated:
            first, *others = (block.conv[1][0] for block in stages["layer4"])
            first.stride = (1, 1)
            for depthwise in others:
                depthwise.dilation = depthwise.padding = (2, 2)
        return Stem({str(i): blocks[i] for i in range(self._STEM_BLOCKS)}), stages

    def own_name(self, name: str) -> str:
        name = super().own_name(name)
        found = re.match(r"features\.(\d+)\.", name)
        if found is None or int(found[1]) >= self._STAGE_ENDS[-1]:
            return name
        block = int(found[1])
        stages = zip(self.stage_names, self._STAGE_ENDS, strict=True)
        stage = next(f"{stage}." for stage, end in stages if block < end)
        return ("" if block < self._STEM_BLOCKS else stage) + name.removeprefix("features.")


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        ResNet("resnet18", basic=True),
        ResNet("resnet34", basic=True),
        ResNet("resnet50"),
        ResNet("resnet101"),
        MobileNetV2(),
    )
}


def find_backbone(name: str) -> Backbone:
    """Returns the backbone that a flag or a checkpoint names.

    Raises:
        LatentStoreError: If there is none of that name.
    """
    if name not in BACKBONES:
        raise LatentStoreError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
    return BACKBONES[name]


def _dilate(stage: Any) -> None:
    """Takes a stage's stride away, à trous: every 3×3 convolution after it gets dilation 2."""
    first, *others = stage
    first.conv1.stride = first.downsample[0].stride = (1, 1)
    for conv in (first.conv2, *(c for block in others for c in (block.conv1, block.conv2))):
        conv.dilation = conv.padding = (2, 2)
