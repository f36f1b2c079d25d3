"""The transform: carries latents at H/16 into the features at H/4 that a backbone's stem makes.

With D = 64, the channels of a ResNet's stem:

Module-Deconv (figure 4a; 23.49 G multiply-adds at 1024×2048, which thop counts as 93.95 G):

    y [B,C,h,w] ─ deconv 5×5 /2, C→256 ─ IGDN or ReLU ─ deconv 5×5 /2, 256→D ─► F [B,D,4h,4w]

Module-Res (figure 4b; 202.0 G with IGDN counted as a 1×1 convolution):

    y ─ RB×2 ─ RB-up C→256 ─ RB×2 ─ RB-up 256→D ─ RB×2 ─► F

where RB is a residual block and RB-up one with PixelShuffle and IGDN, as CompressAI has them. The
paper does not give the blocks; these add up to its count, which is not proof that they are its.

Where the features lie at H/8, behind a later layer of the backbone, a 3×3 convolution stands in the
place of the second upsampling.
"""

import torch
from torch import nn

from latent_store.codec import stock
from latent_store.errors import LatentStoreError
from latent_store.format.schema import FEATURE_STRIDE
from training.networks.network_config import ACTIVATIONS, TRANSFORMS

HIDDEN_CHANNELS = 256


class ModuleDeconv(nn.Module):
    """Two 5×5 transposed convolutions of stride 2 with an activation between them."""

    def __init__(
        self,
        channels: int,
        features: int,
        *,
        activation: str = "igdn",
        stride: int = FEATURE_STRIDE,
    ) -> None:
        super().__init__()
        self.up1 = _deconv(channels, HIDDEN_CHANNELS)
        igdn = activation == "igdn"
        self.activation = stock.GDN(HIDDEN_CHANNELS, inverse=True) if igdn else nn.ReLU()
        last = _deconv if stride == FEATURE_STRIDE else _conv
        self.up2 = last(HIDDEN_CHANNELS, features)

    def forward(self, y_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps float32 [B, C, h, w] to features [B, D, 4h, 4w], or half of that at H/8."""
        return self.up2(self.hidden(y_BCHW))

    def hidden(self, y_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps float32 [B, C, h, w] to what the last layer sees, [B, 256, 2h, 2w]."""
        return self.activation(self.up1(y_BCHW))


class ModuleRes(nn.Module):
    """Residual blocks with two PixelShuffle upsamplings."""

    def __init__(self, channels: int, features: int, *, stride: int = FEATURE_STRIDE) -> None:
        super().__init__()
        self.blocks1 = _residual_pair(channels)
        self.up1 = stock.ResidualBlockUpsample(channels, HIDDEN_CHANNELS)
        self.blocks2 = _residual_pair(HIDDEN_CHANNELS)
        last = stock.ResidualBlockUpsample if stride == FEATURE_STRIDE else _conv
        self.up2 = last(HIDDEN_CHANNELS, features)
        self.blocks3 = _residual_pair(features)

    def forward(self, y_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps float32 [B, C, h, w] to features [B, D, 4h, 4w], or half of that at H/8."""
        return self.blocks3(self.up2(self.blocks2(self.up1(self.blocks1(y_BCHW)))))


def build_transform(
    name: str,
    channels: int,
    features: int,
    *,
    activation: str = "igdn",
    stride: int = FEATURE_STRIDE,
) -> nn.Module:
    """Returns the transform called `name`, from latent channels to feature channels.

    The activation is between the two layers of `deconv`; `res` has its own. A position of the
    features covers `stride` pixels, 4 or 8.

    Raises:
        LatentStoreError: If the name or the activation is unknown.
    """
    if name not in TRANSFORMS or activation not in ACTIVATIONS:
        raise LatentStoreError(
            f"--transform must be one of {', '.join(TRANSFORMS)} with --transform_activation "
            f"{' or '.join(ACTIVATIONS)}, got {name!r} with {activation!r}"
        )
    if name == "res":
        return ModuleRes(channels, features, stride=stride)
    return ModuleDeconv(channels, features, activation=activation, stride=stride)


def _deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)
    # torch's default counts the fan-in of the transposed shape, 25 × outputs; at stride 2 an
    # output position really sums inputs × 25 / 4 terms.
    nn.init.normal_(layer.weight, std=(inputs * 25 / 4) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _residual_pair(channels: int) -> nn.Sequential:
    blocks = (stock.ResidualBlock(channels, channels) for _ in range(2))
    return nn.Sequential(*blocks)
