"""Networks to evaluate: checkpoints, each with the codec whose latents it will get.

A network from a store belongs to the codec that it was trained on. A teacher, trained on raw
images, belongs to none: it is given the decoded pictures of every codec that is asked for, or that
the other checkpoints belong to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from latent_store import LatentStore
from latent_store.errors import CheckpointError, IdentityError
from latent_store.format.schema import CodecSpec
from training.evaluation.points import PIXEL_RAW
from training.networks.network_config import NetworkConfig
from training.trainer.checkpoints import LoadedNetwork, load_network
from training.transmission.inference import require_stops


@dataclass(frozen=True, kw_only=True)
class EvaluatedNetwork:
    """One network with one codec: what becomes a point.

    Attributes:
        path, sha256: Of the checkpoint.
        label: Its name in tables.
        config: The network's shape.
        class_names: Of its classes, where the checkpoint says it.
        ranking_id: The ranking that its channels come from, if any.
        keep: How many channels it gets, one of its selection's `keeps`.
        spec: The codec.
        seed: Of the training run, where the checkpoint says it.
        stop: The confidence at which it asks for no further cut; None for a fixed `keep`.
        trained: How long, see `Point`.
    """

    path: Path
    sha256: str
    label: str
    config: NetworkConfig
    ranking_id: str | None
    keep: int | None
    spec: CodecSpec
    seed: int | None
    stop: float | None = None
    trained: dict[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()


def find_networks(
    paths: Sequence[Path],
    store: LatentStore,
    codec_ids: Sequence[str] | None = None,
    stops: Sequence[float] = (),
) -> list[EvaluatedNetwork]:
    """Reads every checkpoint once and pairs it with its codecs, in the order given.

    A network for any N is one at each of its cuts, and one for each of the confidences `stops` at
    which it asks for no further cut. Without `codec_ids` the codecs are those of the
    networks, or the store's only one.

    Raises:
        CheckpointError: A file is none of ours, or two are of different tasks.
        IdentityError: A network belongs to a codec that the store lacks, that has another
            identity there, or that is not among `codec_ids`.
        LatentStoreError: `stops` are asked for, and no network can stop.
        MissingComponentError: Only teachers are given and the store has several codecs.
    """
    chosen = None if codec_ids is None else [store.codec(c) for c in dict.fromkeys(codec_ids)]
    loaded = {path: load_network(path) for path in dict.fromkeys(paths)}
    _require_one_task(loaded)
    if stops:
        shapes = {str(path): network.config for path, network in loaded.items()}
        any_n = [pair for pair in shapes.items() if pair[1].channel_selection.cuts]
        require_stops(*(any_n or list(shapes.items()))[0])
    own = {
        path: _own_codec(path, network, store, chosen)
        for path, network in loaded.items()
        if network.meta["kind"] != "teacher"
    }
    for_teachers = chosen or list({s.codec_id: s for s in own.values()}.values())
    return [
        evaluated
        for path, network in loaded.items()
        for spec in ([own[path]] if path in own else for_teachers or [store.codec()])
        for evaluated in _networks(path, network, spec, stops)
    ]


def require_classes(networks: Sequence[EvaluatedNetwork], class_names: Sequence[str]) -> None:
    """Raises a CheckpointError if a network's classes are not the dataset's."""
    for evaluated in networks:
        remedy = "evaluate it on the dataset that it was trained on"
        if (found := evaluated.config.num_classes) != len(class_names):
            raise CheckpointError(
                f"{evaluated.path} predicts {found} classes, the dataset has {len(class_names)}; "
                f"{remedy}"
            )
        for number, (mine, name) in enumerate(
            zip(evaluated.class_names, class_names, strict=False)
        ):
            if mine != name:
                raise CheckpointError(
                    f"class {number} of {evaluated.path} is {mine!r}, of the dataset it is {name!r}"
                    f"; {remedy}"
                )


def distinct_labels(networks: Sequence[EvaluatedNetwork]) -> list[str]:
    """Returns a label for each network; those that nothing tells apart get their file's name.

    Networks of one label and codec but other seeds repeat one method. Two of one seed are two
    methods: on one curve, the better would hide the other.
    """
    files: dict[tuple[str, str, int | None], dict[str, Path]] = defaultdict(dict)
    for c in networks:
        files[c.label, c.spec.codec_id, c.seed][c.sha256] = c.path
    shared: dict[str, set[Path]] = defaultdict(set)
    for (label, _, _), found in files.items():
        if len(found) > 1:
            shared[label].update(found.values())
    return [
        f"{c.label} [{_short(c, shared[c.label])}]" if c.label in shared else c.label
        for c in networks
    ]


def _short(evaluated: EvaluatedNetwork, paths: set[Path]) -> str:
    stems = [path.stem for path in paths]
    stem = evaluated.path.stem
    return stem if stems.count(stem) < 2 else f"{evaluated.path.parent.name}/{stem}"


def _networks(
    path: Path, network: LoadedNetwork, spec: CodecSpec, stops: Sequence[float]
) -> list[EvaluatedNetwork]:
    teacher = network.meta["kind"] == "teacher"
    label = PIXEL_RAW if teacher else (network.meta["label"] or path.stem)
    selection = network.config.channel_selection
    ways: list[tuple[int | None, float | None]] = [(keep, None) for keep in selection.keeps]
    ways += [(None, stop) for stop in stops if selection.cuts]
    return [
        EvaluatedNetwork(
            path=path,
            sha256=network.sha256,
            label=selection.label_at(label, keep if stop is None else f"stop-{stop:g}"),
            config=network.config,
            ranking_id=network.meta["ranking_id"],
            keep=keep,
            spec=spec,
            seed=network.meta["train"].get("seed"),
            stop=stop,
            trained=_trained(network),
            class_names=tuple(network.meta["class_names"] or ()),
        )
        for keep, stop in ways
    ]


def _trained(network: LoadedNetwork) -> dict[str, int]:
    meta, train = network.meta, network.meta["train"]
    known = {name: meta[name] for name in ("step", "epoch")}
    known |= {name: train.get(name) for name in ("epochs", "max_steps")}
    # Of a file that no run wrote nothing is known.
    return {name: value for name, value in known.items() if isinstance(value, int)} if train else {}


def _require_one_task(loaded: Mapping[Path, LoadedNetwork]) -> None:
    (first, task), *others = ((path, network.config.task) for path, network in loaded.items())
    for path, other in others:
        if other != task:
            raise CheckpointError(
                f"{first} is a network for {task}, {path} for {other}: one table has one score; "
                "evaluate them in two calls"
            )


def _own_codec(
    path: Path, network: LoadedNetwork, store: LatentStore, chosen: Sequence[CodecSpec] | None
) -> CodecSpec:
    codec_id = network.meta["codec_id"]
    known = store.codecs()
    if codec_id not in known:
        raise IdentityError(
            f"{path} was trained on latents of codec {codec_id}, the store {store.url} has: "
            f"{', '.join(known) or 'none'}; evaluate on a store with that codec, or add it with "
            "encode-to-store --codec_checkpoint"
        )
    if chosen is not None and codec_id not in {spec.codec_id for spec in chosen}:
        names = ", ".join(spec.codec_id for spec in chosen)
        raise IdentityError(
            f"{path} was trained on latents of codec {codec_id}, --codec asks for {names}; leave "
            "--codec out, or leave that checkpoint out"
        )
    known[codec_id].require_identity(network.meta["codec_identity"], str(path))
    return known[codec_id]
