"""The backbones: classification networks whose layers ours are made of, one object each.

    x [B,3,H,W] ─ stem ─► F [B,D,H/4,W/4] ─ four stages ─► maps at H/4, H/8, H/16 and H/32

The stem is everything up to a quarter of the size: the "first two layers" of a ResNet that the
paper removes and whose output it distils. Stem and stages keep torchvision's names inside ours
(`stem.conv1`, `tail.layer1`), so that its weights fit. Other modules ask the backbone for its
channels and its names, and parsers of flags for these alone: torch is loaded by what builds.
"""

from __future__ import annotations

import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from latent_store.components.features import STEM
from latent_store.errors import LatentStoreError
from latent_store.format.schema import FEATURE_STRIDE
from training.own_code import import_own, is_own

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
    stage_names: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
    stage_channels: tuple[int, ...]
    output_stride: int
    signed_features = False

    @property
    def short_name(self) -> str:
        """Its name as part of an id: letters, digits, `_` and `-`."""
        return re.sub(r"[^\w-]", "-", self.name)

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


class NarrowResNet(Backbone):
    """A ResNet-18 of fewer channels, for small pictures of few classes; 1.1 million weights.

    Nobody publishes weights for it. Its layer4 is dilated as ResNet-18's.
    """

    name = "resnet18_narrow"
    stem_channels = 32
    stage_channels = (32, 64, 96, 128)
    output_stride = 16

    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        from torch import nn

        from training.networks.stages import Stem

        channels = self.stem_channels
        stem = Stem(
            {
                "conv1": nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
                "bn1": nn.BatchNorm2d(channels),
                "relu": nn.ReLU(inplace=True),
                "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
            }
        )
        inputs = (channels, *self.stage_channels)
        stages: dict[str, nn.Module] = {
            name: _basic_blocks(*inputs[i : i + 2], stride=min(2, i + 1))
            for i, name in enumerate(self.stage_names)
        }
        if dilated:
            _dilate(stages["layer4"])
        for module in (m for part in (stem, *stages.values()) for m in part.modules()):
            if isinstance(module, nn.Conv2d):  # as torchvision's ResNets begin
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return stem, stages

    def weights(self) -> WeightsEnum:
        raise LatentStoreError(
            f"nobody has weights for --backbone {self.name}: give --pretrained none"
        )


class MobileNetV2(Backbone):
    """MobileNetV2; its stem is features[0:3], which end in a linear bottleneck: F may be negative.

    Stages end where the size halves, as in a ResNet; features[18], the widening to 1280 channels
    for the classifier, is left out, as in torchvision's DeepLab v3 on MobileNetV3. Blocks keep
    torchvision's numbers: `features.7` is `tail.layer3.7`.
    """

    name = "mobilenet_v2"
    stem_channels = 24
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


class OwnBackbone(Backbone):
    """Somebody's own, built by a function that is found at a place, `PACKAGE.MODULE:build`.

        def build(*, dilated: bool) -> tuple[nn.Module, Sequence[nn.Module]]:

    It returns a stem, which takes pictures less ImageNet's mean by its standard deviation and ends
    at H/4, and four stages, whose maps are at H/4, H/8, H/16 and H/32, each called with what the
    one before gave. With `dilated` the last two stay at H/8, or the last stays at H/16.
    Channels and strides are those of one call, made when the backbone is first asked for. In the
    weights' names the stem is `layers`, the stages are `layer1` to `layer4`.

    Raises:
        LatentStoreError: The place has no such function, or what it builds has other shapes.
    """

    signed_features = True

    def __init__(self, place: str) -> None:
        import torch

        self.name, self._build = place, _builder(place)
        # Probing draws weights; nobody else's may depend on it.
        with torch.random.fork_rng(devices=[]):
            shapes, names = {}, {}
            for dilated in (False, True):
                stem, stages = self.build(dilated=dilated)
                shapes[dilated] = self._shapes(stem, stages, dilated=dilated)
                state = {**stem.state_dict(), **_state_of(stages)}
                names[dilated] = {name: value.shape for name, value in state.items()}
        if names[False] != names[True]:
            raise LatentStoreError(
                f"--backbone {place} must build weights of the same names and shapes with and "
                "without dilated; mend it"
            )
        (self.stem_channels, *_), *maps = shapes[False]
        self.stage_channels = tuple(channels for channels, *_ in maps)
        self.output_stride = _PROBE[0] // shapes[True][-1][1]

    def build(self, *, dilated: bool) -> tuple[Stem, dict[str, nn.Module]]:
        from torch import nn

        from training.networks.stages import Stem

        try:
            stem, stages = self._build(dilated=dilated)
            stages = list(stages)
        except Exception as error:
            raise LatentStoreError(
                f"--backbone {self.name} must return a stem and four stages "
                f"({type(error).__name__}: {error}); mend it"
            ) from error
        found = [type(part).__name__ for part in (stem, *stages)]
        if len(stages) != len(self.stage_names) or not all(
            isinstance(part, nn.Module) for part in (stem, *stages)
        ):
            raise LatentStoreError(
                f"--backbone {self.name} must return a stem and four stages, torch.nn.Modules, got "
                f"{', '.join(found)}; mend it"
            )
        return Stem({"layers": stem}), dict(zip(self.stage_names, stages, strict=True))

    def weights(self) -> WeightsEnum:
        raise LatentStoreError(
            f"torchvision has no weights for --backbone {self.name}: give --pretrained a file, or "
            "none"
        )

    def _shapes(
        self, stem: Stem, stages: dict[str, nn.Module], *, dilated: bool
    ) -> list[tuple[int, int, int]]:
        """Returns channels, height and width of what each part gives of a small picture."""
        import torch

        last = ((8, 16), (8, 16)) if dilated else ((16,), (32,))
        strides = ((4,), (4,), (8,), *last)
        found, x_BCHW = [], torch.zeros(1, 3, *_PROBE)
        with torch.no_grad():
            for (name, part), allowed in zip(
                [("stem", stem), *stages.items()], strides, strict=True
            ):
                try:
                    x_BCHW = part.eval()(x_BCHW)
                except Exception as error:
                    raise LatentStoreError(
                        f"--backbone {self.name}: the {name} cannot be called with "
                        f"{list(x_BCHW.shape)} ({type(error).__name__}: {error}); mend it"
                    ) from error
                is_tensor = isinstance(x_BCHW, torch.Tensor)
                kind = x_BCHW.dtype if is_tensor else type(x_BCHW).__name__
                shape = list(x_BCHW.shape) if kind == torch.float32 else []
                sizes = [[side // stride for side in _PROBE] for stride in allowed]
                if len(shape) != 4 or shape[0] != 1 or shape[2:] not in sizes:
                    raise LatentStoreError(
                        f"--backbone {self.name}: of a picture of {_PROBE[0]}x{_PROBE[1]} the "
                        f"{name} must give [1, C, H, W], float32, at 1/"
                        f"{' or 1/'.join(map(str, allowed))} of its size, "
                        f"got {shape or kind}; mend it"
                    )
                found.append((shape[1], shape[2], shape[3]))
        return found


_PROBE = (128, 64)
"""Height and width of the picture that one's own backbone is called with first."""

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        NarrowResNet(),
        ResNet("resnet18", basic=True),
        ResNet("resnet34", basic=True),
        ResNet("resnet50"),
        ResNet("resnet101"),
        MobileNetV2(),
    )
}


def find_backbone(name: str) -> Backbone:
    """Returns the backbone that a flag or a checkpoint names; one's own is called once, to see.

    Raises:
        LatentStoreError: If there is none of that name, or one's own is none.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not is_own(name):
        raise LatentStoreError(
            f"backbone must be one of {', '.join(BACKBONES)}, or PACKAGE.MODULE:build, got {name!r}"
        )
    return _own_backbone(name)


@functools.lru_cache
def _own_backbone(place: str) -> OwnBackbone:
    return OwnBackbone(place)


def _builder(place: str) -> Callable[..., Any]:
    """Returns the function at a place.

    Checkpoints name places too, and may be somebody else's: nothing is called but a function of
    the very module that takes `dilated`, found on the path that was set here.
    """
    build = import_own(place)
    module, _, name = place.partition(":")
    if not (inspect.isfunction(build) and build.__module__ == module):
        raise LatentStoreError(
            f"--backbone {place} must be a function that {module} defines, got "
            f"{type(build).__name__}; define it there"
        )
    if "dilated" not in inspect.signature(build).parameters:
        raise LatentStoreError(
            f"--backbone {place} must be called as {name}(dilated=True or False); give it that "
            "argument"
        )
    return build


def _state_of(stages: dict[str, nn.Module]) -> dict[str, Any]:
    return {f"{s}.{n}": v for s, stage in stages.items() for n, v in stage.state_dict().items()}


def _basic_blocks(inputs: int, outputs: int, *, stride: int) -> nn.Module:
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    shorter = None
    if stride > 1 or inputs != outputs:
        conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        shorter = nn.Sequential(conv, nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shorter), BasicBlock(outputs, outputs))


def _dilate(stage: Any) -> None:
    """Takes a stage's stride away, à trous: every 3×3 convolution after it gets dilation 2."""
    first, *others = stage
    first.conv1.stride = first.downsample[0].stride = (1, 1)
    for conv in (first.conv2, *(c for block in others for c in (block.conv1, block.conv2))):
        conv.dilation = conv.padding = (2, 2)
