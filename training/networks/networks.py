"""The networks: DeepLab v3 or Faster R-CNN on pixels, and without its first two layers on latents.

    pixels   x [B,3,H,W] ─ normalise ─ stem ─► F [B,64,H/4,W/4] ─ tail ─► logits [B,K,H,W]
    latents  ŷ [B,C,h,w] ─ select ─ transform ─► F [B,64,4h,4w] ─ tail ─► logits [B,K,16h,16w]

The stem is the ResNet's conv1, bn1, relu and maxpool: the "first two layers" that the paper
removes and whose output it distils. The tail is layer1 to layer4, atrous spatial pyramid pooling
and the classifier, from torchvision's parts; logits are upsampled bilinearly. A detection network
has another tail, which gives boxes: `training.networks.detection_network`.

Which channels come in, and what is done with them before the transform, is up to the network's
selection, see `training.selection`.

One image's output is the same alone or in any batch. ASPP pools over the whole map, so a batch
holds images of one coded size, and nothing is padded beyond that.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from latent_store.errors import CheckpointError
from latent_store.format.schema import LATENT_STRIDE
from training.networks.network_config import NetworkConfig
from training.networks.transforms import FEATURE_CHANNELS, build_transform

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_BASIC_BLOCKS = ("resnet18", "resnet34")
_BATCHES = "num_batches_tracked"  # which frozen batch norms do not count
_BACKBONE_PARTS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")


class Stem(nn.Module):
    """Normalisation and the first two layers of a ResNet: 64 channels at a quarter of the size."""

    def __init__(self, resnet: models.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        # Constants, not weights: they are not in the state dict.
        self.register_buffer("mean_C11", _column(_IMAGENET_MEAN), persistent=False)
        self.register_buffer("std_C11", _column(_IMAGENET_STD), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps RGB in [0, 1], [B, 3, H, W], to features [B, 64, H/4, W/4] (not negative)."""
        x_BCHW = (x_BCHW - self.mean_C11) / self.std_C11
        return self.maxpool(self.relu(self.bn1(self.conv1(x_BCHW))))


class Tail(nn.Module):
    """layer1 to layer4 of a ResNet, ASPP, classifier; optionally the auxiliary head."""

    def __init__(self, resnet: models.ResNet, config: NetworkConfig) -> None:
        super().__init__()
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4
        self.head = _deeplab_head(resnet.fc.in_features, config)
        self.auxiliary = (
            FCNHead(resnet.fc.in_features // 2, config.num_classes)
            if config.auxiliary_head
            else None
        )

    def forward(
        self, features_BCHW: torch.Tensor, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """Maps features to logits [B, K, *size]; adds "auxiliary_logits" in training if built."""
        x3_BCHW = self.layer3(self.layer2(self.layer1(features_BCHW)))
        outputs = {"logits": _upsample(self.head(self.layer4(x3_BCHW)), size)}
        if self.auxiliary is not None and self.training:
            outputs["auxiliary_logits"] = _upsample(self.auxiliary(x3_BCHW), size)
        return outputs


MakeParts = Callable[[NetworkConfig], tuple[Stem, nn.Module]]
"""A task's `build_parts`."""


class PixelNetwork(nn.Module):
    """The whole DeepLab v3 or Faster R-CNN: the teacher, and the pixel-domain baseline."""

    def __init__(self, config: NetworkConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.config = config
        self.stem, self.tail = make_parts(config)

    def forward(self, x_BCHW: torch.Tensor, **tail_inputs: Any) -> dict[str, Any]:
        """Runs the network on images.

        Args:
            x_BCHW: Float32 RGB in [0, 1], [B, 3, H, W].
            tail_inputs: What the task's tail needs besides features.

        Returns:
            "features" [B, 64, H/4, W/4], and the tail's outputs, see `Tail` and `DetectionTail`.
        """
        outputs = self.transformed(x_BCHW)
        return outputs | self.tail(outputs["features"], x_BCHW.shape[-2:], **tail_inputs)

    def transformed(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what comes before the tail: "features"."""
        return {"features": self.stem(x_BCHW)}


class LatentNetwork(nn.Module):
    """Gate (dynamic only), transform and tail, on latents.

    Attributes:
        latent_scale_C: Multiplies the incoming channels, 1 / their RMS over the training split.
        feature_mean_C, feature_std_C: Of the teacher's features; the transform's output is scaled
            and shifted by them. Both are fixed, linear and could be folded into the transform's
            outer layers; they are there because Adam moves every weight by about its learning
            rate, which suits layers whose inputs and outputs are of order one.
    """

    def __init__(self, config: NetworkConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.config = config
        self.selection = config.channel_selection
        self.gate = self.selection.make_gate()
        self.transform = build_transform(
            config.transform, config.input_channels, activation=config.transform_activation
        )
        self.tail = make_parts(config)[1]
        self.register_buffer("latent_scale_C", torch.ones(config.input_channels))
        self.register_buffer("feature_mean_C", torch.zeros(FEATURE_CHANNELS))
        self.register_buffer("feature_std_C", torch.ones(FEATURE_CHANNELS))
        self.selection.adapt(self)

    def forward(
        self,
        y_hat_BCHW: torch.Tensor,
        pooled_BC: torch.Tensor | None = None,
        *,
        noise_BC2: torch.Tensor | None = None,
        **tail_inputs: Any,
    ) -> dict[str, Any]:
        """Runs the network on latents.

        Args:
            y_hat_BCHW: Latents as float32: all M channels in natural order, a static network's
                kept channels in ranked order, or the first N of those for any N.
            pooled_BC: Float32 [B, M], the whole image's channel means or RMS as
                `config.gate_pool` says; a dynamic network needs it, others ignore it.
            noise_BC2: Gumbel noise; a dynamic network in training needs it.
            tail_inputs: What the task's tail needs besides features.

        Returns:
            "features" [B, 64, 4h, 4w], the tail's ("logits" [B, K, 16h, 16w] in segmentation), and
            for a dynamic network "gate" and "gate_probability" [B, M].

        Raises:
            ValueError: If the channel count is wrong, or a dynamic network gets no `pooled_BC`.
        """
        outputs = self.transformed(y_hat_BCHW, pooled_BC, noise_BC2)
        height, width = y_hat_BCHW.shape[-2:]
        size = (height * LATENT_STRIDE, width * LATENT_STRIDE)
        return outputs | self.tail(outputs["features"], size, **tail_inputs)

    def transformed(
        self,
        y_hat_BCHW: torch.Tensor,
        pooled_BC: torch.Tensor | None = None,
        noise_BC2: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Returns what comes before the tail: "features", "gate" and "gate_probability"."""
        scaled_BCHW = self._scale(y_hat_BCHW)
        selected_BCHW, outputs = self.selection.select(self, scaled_BCHW, pooled_BC, noise_BC2)
        features_BCHW = self.transform(selected_BCHW)
        outputs["features"] = (
            features_BCHW * self.feature_std_C[:, None, None] + self.feature_mean_C[:, None, None]
        )
        return outputs

    def _scale(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        channels = y_hat_BCHW.shape[1]
        if channels not in self.selection.accepts:
            raise ValueError(
                f"the network takes {' or '.join(map(str, self.selection.accepts))} channels "
                f"({self.selection.name} selection), got {channels}"
            )
        return y_hat_BCHW * self.latent_scale_C[:channels, None, None]

    def set_latent_statistics(self, channel_rms_C: torch.Tensor) -> None:
        """Fixes the input scale from the RMS of every incoming channel, in incoming order.

        The 0.5 keeps channels that are nearly always zero from being blown up to their noise.
        """
        self.latent_scale_C.copy_(1 / (channel_rms_C + 0.5))

    def set_feature_statistics(self, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
        """Fixes the output scale and shift from the teacher features' statistics [64]."""
        self.feature_mean_C.copy_(mean_C)
        self.feature_std_C.copy_(std_C.clamp_min(1e-3))


def build_backbone(name: str) -> models.ResNet:
    """Returns a torchvision ResNet with the strides that DeepLab v3 uses.

    ResNet-50 and 101 have output stride 8, as torchvision's DeepLab v3. ResNet-18 and 34 have
    output stride 16, for small machines: their BasicBlock refuses dilation, so layer4's strides
    and dilations are set here as à trous: the first block loses its stride, and every 3×3
    convolution after that point gets dilation 2. Weights keep names and shapes, so pretrained ones
    load.
    """
    if name not in _BASIC_BLOCKS:
        return models.get_model(
            name, weights=None, replace_stride_with_dilation=[False, True, True]
        )
    resnet = models.get_model(name, weights=None)
    first, *others = resnet.layer4
    first.conv1.stride = first.downsample[0].stride = (1, 1)
    for conv in (first.conv2, *(c for block in others for c in (block.conv1, block.conv2))):
        conv.dilation = conv.padding = (2, 2)
    return resnet


def load_pretrained_backbone(network: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies a torchvision network's backbone weights into a network of ours.

    Of a Faster R-CNN, into a detection network, also what fits of its pyramid and heads: with other
    classes all but the predictor.

    Args:
        network: A PixelNetwork (stem and tail) or a LatentNetwork (tail only).
        state: State dict with torchvision's names: of a ResNet, a DeepLab v3 or a Faster R-CNN.

    Returns:
        The names of the entries that were copied.

    Raises:
        CheckpointError: If an entry has another shape (another ResNet), or layer1 to layer4 are
            not all there.
    """
    state = {_plain_name(name): value for name, value in state.items()}
    own, copied = network.state_dict(), []
    for name in own:
        part, _, source = name.partition(".")
        if part not in ("stem", "tail"):
            continue
        needed = source.startswith(_BACKBONE_PARTS) and not source.endswith(_BATCHES)
        given = state.get(source)
        if given is not None:
            given = network.config.channel_selection.matching(source, given)
        if given is not None and given.shape == own[name].shape:
            own[name].copy_(given)
            copied.append(name)
        elif needed:
            found = "nothing" if given is None else tuple(given.shape)
            raise CheckpointError(
                f"the pretrained weights do not fit {network.config.backbone}: {source} should "
                f"be {tuple(own[name].shape)}, found {found}; give weights of that ResNet"
            )
    return copied


def _plain_name(name: str) -> str:
    """Returns the name that an entry of torchvision's has inside our stem and tail."""
    name = name.removeprefix("backbone.").removeprefix("body.")
    # torchvision's hub keeps files from before 0.13: convolutions where there are blocks now.
    name = re.sub(r"^(fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name)
    return re.sub(r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", name)


def output_stride(backbone: str) -> int:
    """Returns how many pixels one position before the classifier covers: 8 or 16."""
    return 16 if backbone in _BASIC_BLOCKS else 8


def _deeplab_head(inputs: int, config: NetworkConfig) -> nn.Sequential:
    # DeepLab v3 (Chen et al. 2017), section 3.3: rates 6, 12, 18 at output stride 16, doubled at 8.
    rates: Sequence[int] = (6, 12, 18) if output_stride(config.backbone) == 16 else (12, 24, 36)
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


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1)
