"""The networks: DeepLab v3 or Faster R-CNN on pixels, and without its first two layers on latents.

    pixels   x [B,3,H,W] ─ normalise ─ stem ─► F [B,D,H/4,W/4] ─ tail ─► logits [B,K,H,W]
    latents  ŷ [B,C,h,w] ─ select ─ transform ─► F [B,D,4h,4w] ─ tail ─► logits [B,K,16h,16w]

The stem, which the paper removes and whose output it distils, is the backbone's
(`training.networks.backbones`); the tail is the task's: `training.networks.segmentation_network`
gives logits, `training.networks.detection_network` boxes. Which channels come in, and what is done
with them before the transform, is up to the network's selection (`training.selection`).

One image's output is the same alone or in any batch. ASPP pools over the whole map, so a batch
holds images of one coded size, and nothing is padded beyond that.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from latent_store.format.schema import LATENT_STRIDE
from training.networks.backbones import find_backbone
from training.networks.network_config import NetworkConfig
from training.networks.stages import Stem
from training.networks.transforms import build_transform

MakeParts = Callable[[NetworkConfig], tuple[Stem, nn.Module]]
"""A task's `build_parts`."""


class Network(nn.Module, ABC):
    """A network of a task: on pixels or on latents.

    Attributes:
        config: Everything that its shape depends on.
        tail: Of the task, which alone knows what it has.
    """

    config: NetworkConfig
    tail: Any

    @abstractmethod
    def transformed(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Returns what comes before the tail, of the inputs of `forward`: "features" and more."""


class PixelNetwork(Network):
    """The whole DeepLab v3 or Faster R-CNN: the teacher, and the pixel-domain baseline."""

    def __init__(self, config: NetworkConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.config = config
        self.stem, self.tail = make_parts(config)

    def forward(self, x_BCHW: torch.Tensor, **tail_inputs: Any) -> dict[str, Any]:
        """Returns "features" [B, D, H/4, W/4], and the tail's outputs.

        Images are float32 RGB in [0, 1]; `tail_inputs` is what the tail needs besides features.
        """
        outputs = self.transformed(x_BCHW)
        return outputs | self.tail(outputs["features"], x_BCHW.shape[-2:], **tail_inputs)

    def transformed(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.stem(x_BCHW)}


class LatentNetwork(Network):
    """Gate (dynamic only), transform and tail, on latents.

    Attributes:
        latent_scale_C: Multiplies the incoming channels, 1 / their RMS over the training split.
        feature_mean_C, feature_std_C: Of the teacher's features; the transform's output is scaled
            and shifted by them. All are fixed, linear and could be folded into the transform's
            outer layers; they are there because Adam moves every weight by about its learning
            rate, which suits layers whose inputs and outputs are of order one.
    """

    transform: Any
    latent_scale_C: torch.Tensor
    feature_mean_C: torch.Tensor
    feature_std_C: torch.Tensor

    def __init__(self, config: NetworkConfig, make_parts: MakeParts) -> None:
        super().__init__()
        self.config = config
        self.selection = config.channel_selection
        self.gate = self.selection.make_gate()
        channels, features = config.input_channels, config.feature_channels
        activation = config.transform_activation
        self.transform = build_transform(
            config.transform,
            channels,
            features,
            activation=activation,
            stride=find_backbone(config.backbone).stride_at(config.entry),
        )
        self.tail = make_parts(config)[1]
        self.register_buffer("latent_scale_C", torch.ones(channels))
        self.register_buffer("feature_mean_C", torch.zeros(features))
        self.register_buffer("feature_std_C", torch.ones(features))
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
            tail_inputs: See `PixelNetwork`.

        Returns:
            "features" [B, D, 4h, 4w], the tail's ("logits" [B, K, 16h, 16w] in segmentation), and
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
        scaled_BCHW = self.scaled(y_hat_BCHW)
        selected_BCHW, outputs = self.selection.select(self, scaled_BCHW, pooled_BC, noise_BC2)
        features_BCHW = self.transform(selected_BCHW)
        mean_C11, std_C11 = self.feature_mean_C[:, None, None], self.feature_std_C[:, None, None]
        outputs["features"] = features_BCHW * std_C11 + mean_C11
        return outputs

    def scaled(self, y_hat_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns latents of order one: each incoming channel times its scale.

        Raises:
            ValueError: If so many channels cannot come in.
        """
        channels = y_hat_BCHW.shape[1]
        if channels not in self.selection.accepts:
            raise ValueError(
                f"the network takes {' or '.join(map(str, self.selection.accepts))} channels "
                f"({self.selection.name} selection), got {channels}"
            )
        return y_hat_BCHW * self.latent_scale_C[:channels, None, None]

    def set_latent_statistics(self, channel_rms_C: torch.Tensor) -> None:
        """Fixes the input scale from the RMS of every incoming channel, in incoming order."""
        # 0.5 keeps channels that are nearly always zero from being blown up to their noise.
        self.latent_scale_C.copy_(1 / (channel_rms_C + 0.5))

    def set_feature_statistics(self, mean_C: torch.Tensor, std_C: torch.Tensor) -> None:
        """Fixes the output scale and shift from the teacher features' statistics."""
        self.feature_mean_C.copy_(mean_C)
        self.feature_std_C.copy_(std_C.clamp_min(1e-3))
