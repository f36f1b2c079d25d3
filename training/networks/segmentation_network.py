"""The segmentation tail: a backbone's stages, atrous spatial pyramid pooling and the classifier.

    F [B,D,H/4,W/4] ─ stages ─ ASPP ─ classifier ─ bilinear ─► logits [B,K,H,W]

The parts are torchvision's (`torchvision.models.segmentation`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.stages import Stages


class SegmentationTail(Stages):
    """A backbone's dilated stages, ASPP, classifier; optionally the auxiliary head."""

    def __init__(self, stages: Mapping[str, nn.Module], config: NetworkConfig) -> None:
        super().__init__(stages)
        backbone = find_backbone(config.backbone)
        *_, before_last, last = backbone.stage_channels
        self.head = _deeplab_head(last, backbone.output_stride, config)
        self.auxiliary = FCNHead(before_last, config.num_classes) if config.auxiliary_head else None

    def forward(
        self, features_BCHW: torch.Tensor, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """Maps features to logits [B, K, *size]; adds "auxiliary_logits" in training if built."""
        *_, before_last_BCHW, last_BCHW = self.maps(features_BCHW)
        outputs = {"logits": _upsample(self.head(last_BCHW), size)}
        if self.auxiliary is not None and self.training:
            outputs["auxiliary_logits"] = _upsample(self.auxiliary(before_last_BCHW), size)
        return outputs


def _deeplab_head(inputs: int, output_stride: int, config: NetworkConfig) -> nn.Sequential:
    # DeepLab v3 (Chen et al. 2017), section 3.3: rates 6, 12, 18 at output stride 16, doubled at 8.
    rates: Sequence[int] = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    width = config.aspp_width
    aspp = ASPP(inputs, rates, width)
    aspp.project[-1].p = config.dropout
    return nn.Sequential(
        aspp,
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, config.num_classes, 1),
    )


def _upsample(logits_BKHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits_BKHW, size=size, mode="bilinear", align_corners=False)
