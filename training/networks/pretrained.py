"""Weights of torchvision's, copied into a network of ours."""

from collections.abc import Mapping

import torch

from latent_store.errors import CheckpointError
from training.networks.backbones import find_backbone
from training.networks.networks import Network

_UNCOUNTED = "num_batches_tracked"  # which frozen batch norms do not count


def load_pretrained(network: Network, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies torchvision's weights into a network of ours.

    Of a Faster R-CNN, into a detection network, also what fits of its pyramid and heads: with other
    classes all but the predictor.

    Args:
        network: A PixelNetwork (stem and tail) or a LatentNetwork (tail only).
        state: State dict with torchvision's names: of a backbone, a DeepLab v3 or a Faster R-CNN.

    Returns:
        The names of the entries that were copied.

    Raises:
        CheckpointError: If an entry has another shape (another backbone), or stem and stages are
            not all there.
    """
    backbone = find_backbone(network.config.backbone)
    state = {backbone.own_name(name): value for name, value in state.items()}
    own, copied = network.state_dict(), []
    for name in own:
        part, _, source = name.partition(".")
        if part not in ("stem", "tail"):
            continue
        ours = part == "stem" or source.partition(".")[0] in backbone.stage_names
        given = state.get(source)
        if given is not None:
            given = network.config.channel_selection.matching(source, given)
        if given is not None and given.shape == own[name].shape:
            own[name].copy_(given)
            copied.append(name)
        elif ours and not source.endswith(_UNCOUNTED):
            found = "nothing" if given is None else tuple(given.shape)
            raise CheckpointError(
                f"the pretrained weights do not fit {backbone.name}: {source} should be "
                f"{tuple(own[name].shape)}, found {found}; give weights of that backbone"
            )
    return copied
