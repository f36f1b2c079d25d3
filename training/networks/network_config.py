"""The configuration that a network's shape depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from msgspec import Meta

from latent_store.components.features import STEM
from latent_store.errors import CheckpointError, LatentStoreError
from latent_store.storage import records
from latent_store.storage.records import Name
from training.networks.backbones import ENTRIES, find_backbone
from training.own_code import is_own
from training.selection.registry import find_selection

if TYPE_CHECKING:
    from training.selection.base import Selection

DOMAINS = ("latent", "pixel")
TRANSFORMS = ("deconv", "res")
ACTIVATIONS = ("igdn", "relu")
MOST_WIDTH = 8192
"""Of a layer that a flag widens; torchvision's widest have 2048 channels."""
_Width = Annotated[int, Meta(ge=1, le=MOST_WIDTH)]
_Numbers = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=MOST_WIDTH)], ...], Meta(max_length=MOST_WIDTH)
]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that a network's shape depends on; stored in every checkpoint.

    Attributes:
        domain: "latent" or "pixel" (teacher and pixel baseline).
        task: The name of one of `training.tasks`, which builds the tail.
        num_classes: Number of train ids; of boxes with the background, which is 0.
        backbone: One of BACKBONES, or the place of one's own.
        aspp_width: Channels inside ASPP and the classifier; 256 in DeepLab v3. Like the next two
            for segmentation only.
        dropout: After ASPP.
        auxiliary_head: Whether there is an FCN head on layer3, as torchvision has it.
        fpn_width: Channels of the feature pyramid; 256 in torchvision. Like the next two for
            detection only.
        box_head_width: Units of the box head's two linear layers; 1024 in torchvision.
        anchor_size: Side in pixels of the finest pyramid level's anchors; every level doubles it.
            torchvision has 32 for pictures enlarged to 800 pixels or more; latents cannot be
            enlarged, and 24 to 384 span the objects of pictures of about 500.
        selection: One of `training.selection`; always "none" in the pixel domain.
        latent_channels: M of the codec.
        channels: Numbers of the channels that come in, in their order; None for all.
        cuts: The numbers of channels that a network for any N works with, rising.
        entry: The layer whose output the transform gives, one of ENTRIES; "stem" on pixels.
        transform: One of TRANSFORMS.
        transform_activation: One of ACTIVATIONS.
        gate_pool: "mean" or "rms", what the gate sees of each channel.
        gate_bias: The gate's initial bias, see `parse_gate_bias`.
    """

    domain: Name = "latent"
    task: Name = "segmentation"
    num_classes: _Width = 19
    backbone: Name = "resnet50"
    aspp_width: _Width = 256
    dropout: float = 0.1
    auxiliary_head: bool = False
    fpn_width: _Width = 256
    box_head_width: _Width = 1024
    anchor_size: _Width = 24
    selection: Name = "none"
    latent_channels: _Width = 192
    channels: _Numbers | None = None
    cuts: _Numbers | None = None
    entry: Name = STEM
    transform: Name = "deconv"
    transform_activation: Name = "igdn"
    gate_pool: Name = "mean"
    gate_bias: Name = "neutral"

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            raise LatentStoreError(
                f"domain must be one of {', '.join(DOMAINS)}, got {self.domain!r}"
            )
        find_backbone(self.backbone)
        for field in ("aspp_width", "fpn_width", "box_head_width", "anchor_size"):
            if getattr(self, field) < 1:
                raise LatentStoreError(f"{field} must be 1 or more, got {getattr(self, field)}")
        if not 0 <= self.dropout <= 1:
            raise LatentStoreError(f"dropout must be 0 to 1, got {self.dropout}")
        if self.entry not in ENTRIES or (self.entry != STEM and self.domain == "pixel"):
            raise LatentStoreError(
                f"entry must be one of {', '.join(ENTRIES)}, and {STEM} with --domain pixel, got "
                f"{self.entry!r}"
            )
        if not self.channel_selection.takes_all and self.domain == "pixel":
            raise LatentStoreError(
                f"pixels have no channels to select: --domain pixel goes with --selection none, "
                f"got {self.selection!r}"
            )

    def with_flags(self, flags: Any, **known: Any) -> Self:
        """Returns the shape that flags ask for; a field that they lack, or that is None, stays."""
        asked = {field.name: getattr(flags, field.name, None) for field in dataclasses.fields(self)}
        given: dict[str, Any] = {name: v for name, v in asked.items() if v is not None}
        return dataclasses.replace(self, **given | known)

    @property
    def channel_selection(self) -> Selection:
        """The way in which channels are chosen, with this network's channels."""
        kind = find_selection(self.selection)
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})

    @property
    def input_channels(self) -> int:
        """Most channels that `forward` takes."""
        return 3 if self.domain == "pixel" else len(self.channel_selection.numbers)

    @property
    def feature_channels(self) -> int:
        """Channels of the features that enter the tail; at `entry`."""
        return find_backbone(self.backbone).channels_at(self.entry)

    def __str__(self) -> str:
        return f"{self.domain} domain, {self.channel_selection}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain types, ready for a checkpoint or JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds a config from `to_dict`'s values.

        Raises:
            CheckpointError: If a field is unknown, i.e. the file comes from a newer version.
            IntegrityError: A value is none that the field can have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            names = ", ".join(unknown)[:200]
            raise CheckpointError(
                f"the network has settings that this version does not know: {names}; "
                "update the package"
            )
        if isinstance(place := values.get("backbone"), str) and is_own(place):
            find_backbone(place)  # What is wrong with it is mended there, not by training again.
        return records.typed(cls, values, "the network's shape", "train it again")
