"""The networks: DeepLab v3 on pixels, and the same without its first two layers on latents.

    pixels   x [B,3,H,W] ─ normalise ─ stem ─► F [B,64,H/4,W/4] ─ tail ─► logits [B,K,H,W]
    latents  ŷ [B,C,h,w] ─ select ─ transform ─► F [B,64,4h,4w] ─ tail ─► logits [B,K,16h,16w]

The stem is the ResNet's conv1, bn1, relu and maxpool: the "first two layers" that the paper
removes and whose output it distils. The tail is layer1 to layer4, atrous spatial pyramid pooling
and the classifier, from torchvision's parts; logits are upsampled bilinearly.

Selection is in the network for `dynamic` (the gate multiplies the latents by 0 or 1) and outside
for `static` and `any`: a static network takes exactly its kept channels in ranked order, as the
ranked latents and the scalable stream deliver them. A network for any N takes the first N of its
channels, N being one of its cuts, and fills up with zeros, which scaled latents have around them;
how many come in says which cut it is, and so which statistics batch norm uses.

One image's output is the same alone or in any batch. ASPP pools over the whole map, so a batch
holds images of one coded size, and nothing is padded beyond that.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from latent_store.errors import CheckpointError, LatentStoreError
from latent_store.schema import LATENT_STRIDE
from training.cut_norm import keep_statistics_per_cut, matching
from training.gate import ChannelGate, parse_gate_bias
from training.transforms import FEATURE_CHANNELS, build_transform

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101")
DOMAINS = ("latent", "pixel")
SELECTIONS = ("none", "dynamic", "static", "any")
TASKS = ("segmentation",)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_BASIC_BLOCKS = ("resnet18", "resnet34")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that a network's shape depends on; stored in every checkpoint.

    Attributes:
        domain: "latent" or "pixel" (teacher and pixel baseline).
        task: "segmentation".
        num_classes: number of train ids.
        backbone: one of BACKBONES.
        aspp_width: channels inside ASPP and the classifier; 256 in DeepLab v3.
        dropout: after ASPP.
        auxiliary_head: whether there is an FCN head on layer3, as torchvision has it.
        selection: "none", "dynamic", "static" or "any"; always "none" in the pixel domain.
        latent_channels: M of the codec.
        channels: the kept channel numbers in ranked order, for "any" up to the largest cut; only
            for these two.
        cuts: the numbers of channels that an "any" network works with, rising; only for "any".
        transform: "deconv" or "res".
        transform_activation: "igdn" or "relu".
        gate_pool: "mean" or "rms", what the gate sees of each channel.
        gate_bias: the gate's initial bias, see `parse_gate_bias`.
    """

    domain: str = "latent"
    task: str = "segmentation"
    num_classes: int = 19
    backbone: str = "resnet50"
    aspp_width: int = 256
    dropout: float = 0.1
    auxiliary_head: bool = False
    selection: str = "none"
    latent_channels: int = 192
    channels: tuple[int, ...] | None = None
    cuts: tuple[int, ...] | None = None
    transform: str = "deconv"
    transform_activation: str = "igdn"
    gate_pool: str = "mean"
    gate_bias: str = "neutral"

    def __post_init__(self) -> None:
        for field, allowed in (
            ("domain", DOMAINS),
            ("task", TASKS),
            ("backbone", BACKBONES),
            ("selection", SELECTIONS),
            ("gate_pool", ("mean", "rms")),
        ):
            if getattr(self, field) not in allowed:
                raise LatentStoreError(
                    f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}"
                )
        parse_gate_bias(self.gate_bias)
        if (self.channels is not None) != (self.selection in ("static", "any")):
            raise LatentStoreError(
                f"a static network or one for any N, and no other, names its channels; got "
                f"selection {self.selection!r} with channels {self.channels}"
            )
        self._check_cuts()
        if self.domain == "pixel" and self.selection != "none":
            raise LatentStoreError(
                f"pixels have no channels to select: --domain pixel goes with --selection none, "
                f"got {self.selection!r}"
            )

    def _check_cuts(self) -> None:
        if (self.cuts is not None) != (self.selection == "any"):
            raise LatentStoreError(
                f"a network for any N, and no other, has cuts; got selection {self.selection!r} "
                f"with cuts {self.cuts}"
            )
        if self.cuts is None:
            return
        rising = list(self.cuts) == sorted(set(self.cuts))
        if not self.cuts or not rising or self.cuts[0] < 1 or self.cuts[-1] != len(self.channels):
            raise LatentStoreError(
                f"cuts must rise from 1 or more to all {len(self.channels)} channels of the "
                f"network, got {list(self.cuts)}"
            )

    @property
    def input_channels(self) -> int:
        """Most channels that `forward` takes: 3, M, or those that the network names."""
        if self.domain == "pixel":
            return 3
        return self.latent_channels if self.channels is None else len(self.channels)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain types, ready for a checkpoint or JSON."""
        tuples = {name: getattr(self, name) for name in ("channels", "cuts")}
        return dataclasses.asdict(self) | {k: v and list(v) for k, v in tuples.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Builds a config from `to_dict`'s values.

        Raises:
            CheckpointError: if a field is unknown, i.e. the file comes from a newer version.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(
                f"the network has settings that this version does not know: {', '.join(unknown)}; "
                "update the package"
            )
        lists = {name: values.get(name) for name in ("channels", "cuts")}
        return cls(**{**values, **{k: None if v is None else tuple(v) for k, v in lists.items()}})


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


class PixelNetwork(nn.Module):
    """The whole DeepLab v3: the teacher, and the pixel-domain baseline."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        resnet = build_backbone(config.backbone)
        self.stem = Stem(resnet)
        self.tail = Tail(resnet, config)

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Segments images.

        Args:
            x_BCHW: float32 RGB in [0, 1], [B, 3, H, W].

        Returns:
            "logits" [B, K, H, W] and "features" [B, 64, H/4, W/4].
        """
        features_BCHW = self.stem(x_BCHW)
        return {"features": features_BCHW} | self.tail(features_BCHW, x_BCHW.shape[-2:])


class LatentNetwork(nn.Module):
    """Gate (dynamic only), transform and tail, on latents.

    Attributes:
        latent_scale_C: multiplies the incoming channels, 1 / their RMS over the training split.
        feature_mean_C, feature_std_C: of the teacher's features; the transform's output is scaled
            and shifted by them. Both are fixed, linear and could be folded into the transform's
            outer layers; they are there because Adam moves every weight by about its learning
            rate, which suits layers whose inputs and outputs are of order one.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = (
            ChannelGate(config.latent_channels, bias=config.gate_bias)
            if config.selection == "dynamic"
            else None
        )
        self.transform = build_transform(
            config.transform, config.input_channels, activation=config.transform_activation
        )
        self.tail = Tail(build_backbone(config.backbone), config)
        self.register_buffer("latent_scale_C", torch.ones(config.input_channels))
        self.register_buffer("feature_mean_C", torch.zeros(FEATURE_CHANNELS))
        self.register_buffer("feature_std_C", torch.ones(FEATURE_CHANNELS))
        self._switch = keep_statistics_per_cut(self, len(config.cuts)) if config.cuts else None

    def forward(
        self,
        y_hat_BCHW: torch.Tensor,
        pooled_BC: torch.Tensor | None = None,
        *,
        noise_BC2: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Segments latents.

        Args:
            y_hat_BCHW: latents as float32: all M channels in natural order, a static network's
                kept channels in ranked order, or the first N of those for any N.
            pooled_BC: float32 [B, M], the whole image's channel means or RMS as
                `config.gate_pool` says; a dynamic network needs it, others ignore it.
            noise_BC2: Gumbel noise; a dynamic network in training needs it.

        Returns:
            "logits" [B, K, 16h, 16w], "features" [B, 64, 4h, 4w], and for a dynamic network
            "gate" and "gate_probability" [B, M].

        Raises:
            ValueError: if the channel count is wrong, or a dynamic network gets no `pooled_BC`.
        """
        outputs: dict[str, torch.Tensor] = {}
        scaled_BCHW = self._scale(y_hat_BCHW)
        if self.gate is not None:
            if pooled_BC is None:
                raise ValueError("a dynamic network needs pooled_BC, see training.gate")
            gate_BC, outputs["gate_probability"] = self.gate(pooled_BC, noise_BC2)
            outputs["gate"] = gate_BC
            scaled_BCHW = scaled_BCHW * gate_BC[:, :, None, None]
        features_BCHW = self.transform(scaled_BCHW)
        features_BCHW = (
            features_BCHW * self.feature_std_C[:, None, None] + self.feature_mean_C[:, None, None]
        )
        height, width = y_hat_BCHW.shape[-2:]
        size = (height * LATENT_STRIDE, width * LATENT_STRIDE)
        return outputs | {"features": features_BCHW} | self.tail(features_BCHW, size)

    def _scale(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        """Scales the latents; for any N, switches to their cut and adds zeros for the rest."""
        config, channels = self.config, y_hat_BCHW.shape[1]
        allowed = config.cuts or (config.input_channels,)
        if channels not in allowed:
            raise ValueError(
                f"the network takes {' or '.join(map(str, allowed))} channels "
                f"({config.selection} selection), got {channels}"
            )
        scaled_BCHW = y_hat_BCHW * self.latent_scale_C[:channels, None, None]
        if self._switch is None:
            return scaled_BCHW
        self._switch.index = config.cuts.index(channels)
        return F.pad(scaled_BCHW, (0, 0, 0, 0, 0, config.input_channels - channels))

    def set_latent_statistics(self, channel_rms_C: torch.Tensor) -> None:
        """Fixes the input scale from the RMS of every incoming channel, in incoming order.

        The 0.5 keeps channels that are nearly always zero from being blown up to their noise.
        """
        self.latent_scale_C.copy_(1 / (channel_rms_C + 0.5))

    def set_feature_statistics(self, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
        """Fixes the output scale and shift from the teacher features' statistics [64]."""
        self.feature_mean_C.copy_(mean_C)
        self.feature_std_C.copy_(std_C.clamp_min(1e-3))


def build_network(config: NetworkConfig) -> PixelNetwork | LatentNetwork:
    """Returns a network with fresh weights, in training mode."""
    return PixelNetwork(config) if config.domain == "pixel" else LatentNetwork(config)


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
    """Copies a torchvision ResNet's or DeepLab v3's backbone weights into a network of ours.

    Args:
        network: a PixelNetwork (stem and tail) or a LatentNetwork (tail only).
        state: state dict with torchvision's names, with or without the prefix "backbone.".

    Returns:
        The names of the entries that were copied.

    Raises:
        CheckpointError: if an entry has another shape (another ResNet), or layer1 to layer4 are
            not all there.
    """
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    own, copied = network.state_dict(), []
    for part in ("stem", "tail"):
        for name in own:
            source = name.removeprefix(f"{part}.")
            if name == source or source.startswith(("head.", "auxiliary.")):
                continue
            given = state.get(source)
            if given is not None:
                given = matching(source, given, None, network.config.cuts)
            if given is None or given.shape != own[name].shape:
                found = "nothing" if given is None else tuple(given.shape)
                raise CheckpointError(
                    f"the pretrained weights do not fit {network.config.backbone}: {source} should "
                    f"be {tuple(own[name].shape)}, found {found}; give weights of that ResNet"
                )
            own[name].copy_(given)
            copied.append(name)
    return copied


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
