"""Initial weights of a network: from a teacher, from another network, from ImageNet.

All networks that are compared start alike: tail from the same teacher, transform and gate fresh.
Starting from another network (a static one from a dynamic one) is a method of its own.
"""

import contextlib
import itertools
import logging
from collections.abc import Mapping

import numpy as np
import torch

from latent_store.errors import CheckpointError
from latent_store.format.feature_encoding import UINT8
from training.data.loader import CropLoader
from training.data.loader_config import LoaderConfig
from training.data.source import Source
from training.data.store_source import StoreSource
from training.networks.backbones import find_backbone
from training.networks.networks import LatentNetwork, Network, PixelNetwork
from training.selection.cut_norm import at_cuts
from training.tasks.registry import find_task
from training.trainer.checkpoints import (
    LoadedNetwork,
    is_network,
    load_network,
    read_state_dict,
)
from training.trainer.folded_norms import BATCHES, folded_norms, unfold_norms

_LOG = logging.getLogger(__name__)
_FEATURE_ROWS = 16
_UNCOUNTED = "num_batches_tracked"  # which frozen batch norms do not count
_OTHER_CLASSES = "use one that was trained on this dataset's classes"


def start_from_teacher(
    network: Network, teacher: LoadedNetwork, *, without: str = "--init scratch"
) -> list[str]:
    """Copies the teacher's tail, and in the pixel domain its stem too.

    Of a teacher of another task the backbone's stages are copied, which have the same shapes with
    and without dilation; the heads have nothing in common.

    Args:
        network: In place.
        teacher: Whose weights are copied.
        without: The flag that does without it.

    Returns:
        The names of the tail's parts that stay fresh; none with a teacher of the same task.

    Raises:
        CheckpointError: If the tails differ in shape; the first field that does is named.
    """
    mine, theirs = (find_task(config.task) for config in (network.config, teacher.config))
    alike = mine is theirs
    for field in ("backbone", *mine.tail_fields, "num_classes") if alike else ("backbone",):
        given, wanted = getattr(teacher.config, field), getattr(network.config, field)
        if given != wanted:
            remedy = f"give --{field} {given}" if field != "num_classes" else _OTHER_CLASSES
            raise CheckpointError(
                f"the tail cannot start from the teacher: its {field} is {given}, the network's "
                f"{wanted}; {remedy}, or {without}"
            )
    # The auxiliary head helps training only: one that the other side lacks is no obstacle.
    own = network.tail.state_dict()
    stages = find_backbone(network.config.backbone).stage_names
    copied = {
        name: at_cuts(name, value, network.config.channel_selection)
        for name, value in teacher.network.tail.state_dict().items()
        if name in own and (alike or name.partition(".")[0] in stages)
    }
    network.tail.load_state_dict(own | copied)
    if isinstance(network, PixelNetwork) and isinstance(teacher.network, PixelNetwork):
        network.stem.load_state_dict(teacher.network.stem.state_dict())
    return [] if alike else sorted({name.split(".")[0] for name in own if name not in copied})


def start_from_network(network: Network, source: LoadedNetwork) -> list[str]:
    """Copies every weight of another network that has a place in this one.

    Latent channels are matched by channel number: a static network takes its channels' share of
    the first layer of a network on all channels, or on other ranked ones that include them.
    Batch norm statistics are matched by cut, see `at_cuts`.

    Returns:
        The names of this network's weights that stay fresh (a gate the other one lacks; with
        Module-Res and fewer channels, the blocks before the first upsampling).

    Raises:
        CheckpointError: If the networks are of different kinds, or channels are missing.
    """
    mine, theirs = network.config, source.config
    shape = ("task", "domain", "entry", "transform", "transform_activation", "latent_channels")
    tail = ("backbone", *find_task(mine.task).tail_fields, "num_classes")
    for field in (*shape, *tail):
        if getattr(mine, field) != getattr(theirs, field):
            what = "of the same architecture" if field != "num_classes" else "on the same classes"
            raise CheckpointError(
                f"--init_from holds a network with {field} {getattr(theirs, field)}, this one has "
                f"{getattr(mine, field)}: give a checkpoint {what}"
            )
    index = _channel_index(network, source)
    state, fresh = source.network.state_dict(), []
    for name, value in network.state_dict().items():
        given = state.get(name)
        if given is not None and index is not None:
            given = _pick_channels(name, given, index)
        if given is not None:
            given = at_cuts(name, given, mine.channel_selection, theirs.channel_selection)
        if given is None or given.shape != value.shape:
            fresh.append(name)
        else:
            value.copy_(given)
    return fresh


def start_from_pretrained(network: Network, source: str) -> None:
    """Copies torchvision's weights, see `load_pretrained`: `imagenet` from its hub, or a file's.

    Of a file that `train-teacher` wrote it copies what `start_from_teacher` does, for another task
    the backbone.

    Raises:
        CheckpointError: If the hub cannot be reached and nothing is cached, or the weights do not
            fit.
    """
    if source != "imagenet":
        if is_network(source):
            teacher = load_network(source, kind="teacher")
            start_from_teacher(network, teacher, without="--pretrained none")
        else:
            load_pretrained(network, read_state_dict(source))
        return
    weights = find_backbone(network.config.backbone).weights()
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise CheckpointError(
            f"torchvision's weights for {network.config.backbone} cannot be downloaded ({error}); "
            f"download {weights.url} elsewhere and give its path to --pretrained, or use "
            "--pretrained none"
        ) from error
    load_pretrained(network, state)


def unfold_pretrained(network: Network, source: Source, loader: LoaderConfig, *, seed: int) -> None:
    """Takes statistics for weights whose batch norms were folded, see `folded_norms`.

    On every rank the same, of whole batches. Networks on latents are left as they are: what their
    tail gets is not yet features. Such weights are for their teacher.
    """
    if not isinstance(network, PixelNetwork) or not folded_norms(network):
        return
    with contextlib.closing(CropLoader(source, loader, seed=seed)) as batches:
        number = unfold_norms(network, itertools.islice(batches.stream(0, 0), BATCHES))
    _LOG.info("%d folded batch norms have statistics of %d batches now", number, BATCHES)


def load_pretrained(network: Network, state: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies torchvision's weights into a network of ours: stem, if it has one, and tail.

    The state dict, with torchvision's names, is of a backbone, a DeepLab v3 or a Faster R-CNN. Of
    the last a detection network gets what fits of pyramid and heads too: with other classes all but
    the predictor.

    Returns:
        The names of the entries that were copied.

    Raises:
        CheckpointError: If an entry has another shape, or stem and stages are not all there.
    """
    backbone = find_backbone(network.config.backbone)
    state = {backbone.own_name(name): value for name, value in state.items()}
    own, copied = network.state_dict(), []
    for name, value in own.items():
        part, _, source = name.partition(".")
        if part not in ("stem", "tail"):
            continue
        ours = part == "stem" or source.partition(".")[0] in backbone.stage_names
        given = state.get(source)
        if given is not None:
            given = at_cuts(source, given, network.config.channel_selection)
        if given is not None and given.shape == value.shape:
            value.copy_(given)
            copied.append(name)
        elif ours and not source.endswith(_UNCOUNTED):
            found = "nothing" if given is None else tuple(given.shape)
            raise CheckpointError(
                f"the pretrained weights do not fit {backbone.name}: {source} should be "
                f"{tuple(value.shape)}, found {found}; give weights of that backbone"
            )
    return copied


def set_statistics(network: LatentNetwork, source: StoreSource) -> None:
    """Fixes a fresh network's input and output scales, and how its gate standardises its input.

    All are the training split's; without a teacher's features the output scale stays 1.

    Raises:
        CheckpointError: The teacher's features are not those of the network's backbone.
    """
    rms_BC = source.latents.column("channel_rms", source.rows)
    rms_C = np.sqrt(np.square(rms_BC, dtype=np.float64).mean(0))
    rms_C = rms_C[list(network.selection.numbers)]
    network.set_latent_statistics(torch.from_numpy(rms_C).float())
    if network.gate is not None:
        pooled = source.latents.column(f"channel_{network.config.gate_pool}", source.rows)
        pooled_BC = torch.from_numpy(pooled).double()
        mean_C, std_C = pooled_BC.mean(0), pooled_BC.std(0, correction=0)
        network.gate.set_input_statistics(mean_C.float(), std_C.float())
    if source.teacher is not None:
        mean_C, std_C = feature_statistics(source)
        own, config = len(network.feature_mean_C), network.config
        if len(mean_C) != own:
            raise CheckpointError(
                f"the features of teacher {source.spec.teacher_id} have {len(mean_C)} channels, "
                f"{config.backbone} has {own} at entry {config.entry}: give the teacher's "
                "--backbone, or train without its features, --lambda_kd 0"
            )
        backbone = find_backbone(network.config.backbone)
        if backbone.signed_features and source.teacher.encoding.name == UINT8:
            raise CheckpointError(
                f"the features of teacher {source.spec.teacher_id} are stored as uint8, without "
                f"the sign that those of {backbone.name} have: encode them into a new store, as "
                "their default, or train without them, --lambda_kd 0"
            )
        network.set_feature_statistics(mean_C, std_C)


def feature_statistics(source: StoreSource) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and standard deviation of the teacher's features, float32 [D] each.

    From at most 16 images spread over the split, read one by one.
    """
    assert source.teacher is not None  # or there are none
    stride = source.teacher.stride
    rows = source.rows[:: -(-len(source.rows) // _FEATURE_ROWS)]
    count, total, squares = 0, 0.0, 0.0
    for row in rows:
        ((height, width),) = source.split.sizes([row])
        window = (0, 0, -(-int(height) // stride), -(-int(width) // stride))
        features_CHW = source.read_features([int(row)], [window])[0]
        features_CN = features_CHW.reshape(len(features_CHW), -1).astype(np.float64)
        count += features_CN.shape[1]
        total, squares = total + features_CN.sum(1), squares + (features_CN**2).sum(1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _channel_index(network: Network, source: LoadedNetwork) -> list[int] | None:
    """Returns where this network's channels lie in the other's; None if they are the same."""
    wanted = network.config.channel_selection.numbers
    have = source.config.channel_selection.numbers
    if network.config.domain == "pixel" or wanted == have:
        return None
    place = {channel: i for i, channel in enumerate(have)}
    if missing := [channel for channel in wanted if channel not in place]:
        raise CheckpointError(
            f"--init_from holds a network on {len(have)} channels, which lack {len(missing)} of "
            f"this one's {len(wanted)} (e.g. channel {missing[0]}): start from one on all channels"
        )
    return [place[channel] for channel in wanted]


def _pick_channels(name: str, value: torch.Tensor, index: list[int]) -> torch.Tensor | None:
    """Returns the wanted channels' share of a weight; None where it mixes channels throughout."""
    if name in ("latent_scale_C", "transform.up1.weight"):
        return value[index]
    mixing = ("transform.blocks1.", "transform.up1.subpel", "transform.up1.upsample")
    return None if name.startswith(mixing) else value
