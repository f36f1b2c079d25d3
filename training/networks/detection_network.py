"""The detection tail: a backbone's stages, a feature pyramid and Faster R-CNN's heads.

    F [B,D,H/4,W/4] ─ four stages ─ FPN ─► five maps, strides 4 to 64
                       ├─ RPN head ─ anchors ─ NMS ─► proposals
                       └─ RoIAlign of each proposal ─ box head ─► class and box ─ NMS ─► detections

The parts are torchvision's (`torchvision.models.detection`), but not `GeneralizedRCNNTransform`,
which enlarges and pads pictures: latents come at one size. Every image of a batch has one coded
size; `valid_B2` says how much of it is the original picture, and proposals and detections are
clipped to that. What torchvision infers from a batch (strides, the pyramid's scales) is fixed here,
so that one image's output is the same alone, in any batch and for any canvas.

Two things differ from torchvision in training, and neither in what is learned on the average:

- Which anchors and proposals the loss looks at is drawn from (seed, epoch, row), so a resumed run
  draws what the interrupted one would have drawn, and a row draws the same on any device.
- torchvision divides a batch's sums by the batch's number of samples. Here each image's sum is
  divided by the image's own number, which gives the same where images have their full numbers, and
  makes an image's loss independent of the batch: accumulated batches and ranks add up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from training.data.sampling import SAMPLE_KEY
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.networks import Network
from training.networks.stages import Stages

STRIDES = (4, 8, 16, 32, 64)
"""Pixels that one position of each pyramid level covers; the last is the fourth, subsampled."""
PROPOSALS = {"training": 2000, "testing": 1000}
"""Most proposals of a level before, and of an image after, non-maximum suppression."""
ROI_SIZE = 7
"""Cells a side that a proposal is pooled to."""
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_POOLED = ("0", "1", "2", "3")
# Equation 1 of the FPN paper assigns a 224-pixel object to level 4, with anchors from 32 pixels.
_CANONICAL_PER_ANCHOR = 224 / 32
_SMOOTH_L1_BETA = 1 / 9

SampleKey = tuple[int, int, int]
"""Seed, epoch and row."""


class DetectionTail(Stages):
    """A backbone's stages, feature pyramid, region proposals, box heads."""

    def __init__(self, stages: Mapping[str, nn.Module], config: NetworkConfig) -> None:
        super().__init__(stages)
        inputs = list(find_backbone(config.backbone).stage_channels)
        self.fpn = FeaturePyramidNetwork(inputs, config.fpn_width, LastLevelMaxPool())
        self.rpn = _region_proposals(config)
        self.roi_heads = _box_heads(config)

    def forward(
        self,
        features_BCHW: torch.Tensor,
        size: tuple[int, int],
        *,
        valid_B2: torch.Tensor,
        targets: Sequence[Mapping[str, torch.Tensor]] | None = None,
        sample_keys: Sequence[SampleKey] = (),
    ) -> dict[str, Any]:
        """Detects objects, or computes what training minimises.

        Args:
            features_BCHW: At H/4 and W/4.
            size: H and W, in pixels.
            valid_B2: Height and width, in pixels from the top left corner, that belong to the
                original picture.
            targets: For training: "boxes" float32 [n, 4] (x1, y1, x2, y2, half-open, in pixels) and
                "labels" int64 [n] of each image; n may be 0.
            sample_keys: For training, one an image.

        Returns:
            In evaluation "detections", one an image: "boxes" float32 [n, 4] inside the valid
            extent, "labels" int64 [n] from 1 and "scores" float32 [n], best first. In training
            "objectness", "proposal_box", "classification" and "box": float32 [B], each image's
            mean over the anchors or proposals that were drawn of it.
        """
        maps = self.pyramid(features_BCHW)
        valid = [(int(height), int(width)) for height, width in valid_B2.tolist()]
        # Of the tensor torchvision takes no more than the size.
        images = ImageList(features_BCHW.new_empty(0, 0, *size), valid)
        if not self.training:
            proposals, _ = self.rpn(images, maps)
            detections, _ = self.roi_heads(maps, proposals, valid)
            return {"detections": detections}
        self.rpn.fg_bg_sampler.keys = self.roi_heads.fg_bg_sampler.keys = tuple(sample_keys)
        learned = [dict(target) for target in targets or ()]
        proposals, losses = self.rpn(images, maps, learned)
        classification_B, box_B = _box_losses(self.roi_heads, maps, proposals, learned)
        return {
            "objectness": losses["loss_objectness"],
            "proposal_box": losses["loss_rpn_box_reg"],
            "classification": classification_B,
            "box": box_B,
        }

    def pyramid(self, features_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the maps "0" to "3" and "pool", each [B, fpn_width, ...] at its stride."""
        return self.fpn(dict(zip(_POOLED, self.maps(features_BCHW), strict=True)))


class DetectionLayers(nn.Module):
    """The layers of a detection network on one image, without what is done to boxes between them.

    Which boxes those are has no answer where nothing is computed. The box head is there as often as
    evaluation lets proposals through: what a busy picture costs, and a plain one does not exceed.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> None:
        """Runs every layer once; the inputs are the network's."""
        tail = self.network.tail
        features_BCHW = self.network.transformed(*inputs)["features"]
        maps = tail.pyramid(features_BCHW)
        tail.rpn.head(list(maps.values()))
        heads = tail.roi_heads
        pooled = (PROPOSALS["testing"], self.network.config.fpn_width, ROI_SIZE, ROI_SIZE)
        heads.box_predictor(heads.box_head(features_BCHW.new_empty(pooled)))


class KeyedSampler:
    """Draws what the loss looks at; torchvision's `BalancedPositiveNegativeSampler`, but keyed.

    Args:
        stage: Makes the region proposals' numbers others than the box heads'.
        number: Of samples an image, where there are so many.
        positive_share: The most of them that are positive.

    Attributes:
        keys: Of the images of the batch under way.
    """

    def __init__(self, stage: int, number: int, positive_share: float) -> None:
        self.stage, self.number = stage, number
        self.most_positive = int(number * positive_share)
        self.keys: tuple[SampleKey, ...] = ()

    def __call__(
        self, labels: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns masks of the positives and of the negatives drawn, bool [N] an image.

        Args:
            labels: [N] an image; from 1 positive, 0 negative, -1 neither.
        """
        drawn = [self._draw(*pair) for pair in zip(labels, self.keys, strict=True)]
        return [positive for positive, _ in drawn], [negative for _, negative in drawn]

    def _draw(self, labels_N: torch.Tensor, key: SampleKey) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((SAMPLE_KEY, self.stage, *key))
        order_N = torch.from_numpy(rng.permutation(len(labels_N))).to(labels_N.device)
        ordered_N = labels_N[order_N]
        positive = order_N[ordered_N >= 1][: self.most_positive]
        negative = order_N[ordered_N == 0][: self.number - len(positive)]
        masks = torch.zeros(2, len(labels_N), dtype=torch.bool, device=labels_N.device)
        masks[0, positive] = True
        masks[1, negative] = True
        return masks[0], masks[1]


class GridAnchors(AnchorGenerator):
    """Anchors at the strides that the pyramid has, whatever size comes in.

    torchvision divides the image's size by the map's, which is the stride only where every level
    divides the size; crops are multiples of 16 pixels.
    """

    def forward(
        self, image_list: ImageList, feature_maps: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Returns all anchors, float32 [N, 4], for each image the same."""
        # float32 under autocast too: at 500 pixels bf16 has steps of 2.
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        sizes = [list(one.shape[-2:]) for one in feature_maps]
        anchors_N4 = torch.cat(self.grid_anchors(sizes, [[s, s] for s in STRIDES]))
        return [anchors_N4] * len(image_list.image_sizes)


class _Proposals(RegionProposalNetwork):
    """torchvision's, with a loss for each image."""

    def compute_loss(
        self,
        objectness: torch.Tensor,
        pred_bbox_deltas: torch.Tensor,
        labels: list[torch.Tensor],
        regression_targets: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns [B] for objectness and for boxes; all anchors of all images come in one row."""
        positive, negative = self.fg_bg_sampler(labels)
        logits_BN = objectness.view(len(labels), -1)
        deltas_BN4 = pred_bbox_deltas.view(len(labels), -1, 4)
        objectness_losses, box_losses = [], []
        for i, (is_object_N, targets_N4) in enumerate(zip(labels, regression_targets, strict=True)):
            drawn_N = positive[i] | negative[i]
            number = drawn_N.sum().clamp_min(1)
            errors = F.binary_cross_entropy_with_logits(
                logits_BN[i, drawn_N], is_object_N[drawn_N], reduction="sum"
            )
            objectness_losses.append(errors / number)
            boxes = _box_error(deltas_BN4[i, positive[i]], targets_N4[positive[i]])
            box_losses.append(boxes / number)
        return torch.stack(objectness_losses), torch.stack(box_losses)


class _ProposalHead(RPNHead):
    """torchvision's, in float32 where boxes come out: bf16 cannot tell neighbour pixels apart."""

    def forward(self, x: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        logits, deltas = super().forward(x)
        return [one.float() for one in logits], [one.float() for one in deltas]


class _Predictor(FastRCNNPredictor):
    """torchvision's, in float32 where boxes come out."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


def _region_proposals(config: NetworkConfig) -> RegionProposalNetwork:
    """Returns the RPN with torchvision's thresholds."""
    sizes = tuple((config.anchor_size << level,) for level in range(len(STRIDES)))
    rpn = _Proposals(
        GridAnchors(sizes, (_ASPECT_RATIOS,) * len(STRIDES)),
        _ProposalHead(config.fpn_width, len(_ASPECT_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=PROPOSALS,
        post_nms_top_n=PROPOSALS,
        nms_thresh=0.7,
    )
    rpn.fg_bg_sampler = KeyedSampler(0, 256, 0.5)
    return rpn


def _box_heads(config: NetworkConfig) -> RoIHeads:
    """Returns the box heads with torchvision's thresholds."""
    pool = MultiScaleRoIAlign(_POOLED, ROI_SIZE, sampling_ratio=2)
    # Set here, torchvision does not infer them from the first batch's valid extents.
    pool.scales = [1 / stride for stride in STRIDES[:-1]]
    canonical = config.anchor_size * _CANONICAL_PER_ANCHOR
    pool.map_levels = LevelMapper(2, 5, canonical_scale=canonical, canonical_level=4)
    heads = RoIHeads(
        pool,
        TwoMLPHead(config.fpn_width * ROI_SIZE**2, config.box_head_width),
        _Predictor(config.box_head_width, config.num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    heads.fg_bg_sampler = KeyedSampler(1, 512, 0.25)
    return heads


def _box_losses(
    heads: RoIHeads,
    maps: Mapping[str, torch.Tensor],
    proposals: list[torch.Tensor],
    targets: list[dict[str, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns each image's losses of classes and of boxes, [B]: `fastrcnn_loss` by image."""
    proposals, _, labels, targets_N4 = heads.select_training_samples(proposals, targets)
    pooled = heads.box_roi_pool(maps, proposals, [])
    logits_NK, deltas_N = heads.box_predictor(heads.box_head(pooled))
    deltas_NK4 = deltas_N.view(*logits_NK.shape, 4)
    numbers = [len(one) for one in labels]
    classification, boxes = [], []
    for classes_N, wanted_N4, scores_NK, coded_NK4 in zip(
        labels, targets_N4, logits_NK.split(numbers), deltas_NK4.split(numbers), strict=True
    ):
        number = max(len(classes_N), 1)
        classification.append(F.cross_entropy(scores_NK, classes_N, reduction="sum") / number)
        (found,) = torch.where(classes_N > 0)
        error = _box_error(coded_NK4[found, classes_N[found]], wanted_N4[found])
        boxes.append(error / number)
    return torch.stack(classification), torch.stack(boxes)


def _box_error(coded_N4: torch.Tensor, wanted_N4: torch.Tensor) -> torch.Tensor:
    return F.smooth_l1_loss(coded_N4, wanted_N4, beta=_SMOOTH_L1_BETA, reduction="sum")
