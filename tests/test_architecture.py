"""Imports flow one way, and what a command is called and takes is a contract."""

from __future__ import annotations

import ast
import graphlib
import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("latent_store", "training", "pipelines")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
CONTRACT = {
    "latent-store": [
        "inspect", "verify", "decode", "export", "selfcheck", "finalize", "share", "doctor",
    ],
    "encode-to-store": [
        "--dataset", "--data_root", "--split", "--store", "--codec_checkpoint", "--quality",
        "--demo_codec", "--teacher_checkpoint", "--samples_per_shard", "--max_samples",
        "--max_failures", "--dry_run", "--canvas", "--views", "--architecture",
    ],
    "train-teacher": ["--dataset", "--data_root", "--output"],
    "train-codec": ["--output"],
    "generate-scenes": ["--output", "--train", "--val"],
    "train-from-store": [
        "--store", "--dataset", "--output", "--task", "--domain", "--selection", "--mask", "--keep",
        "--transform", "--backbone", "--epochs", "--resume", "--codec", "--teacher", "--init_from",
        "--rate_weight", "--lambda_kd", "--cuts", "--deterministic",
    ],
    "channel-frequency": [
        "--store", "--dataset", "--split", "--checkpoint", "--ranking", "--method", "--keep",
        "--codec", "--strict",
    ],
    "reorder-latents": ["--store", "--dataset", "--split", "--ranking", "--codec"],
    "evaluate-from-store": [
        "--store", "--dataset", "--split", "--checkpoint", "--output", "--codec",
    ],
    "segment": ["--checkpoint", "--image", "--stream", "--encode_only", "--output", "--keep"],
    "detect": ["--checkpoint", "--image", "--stream", "--encode_only", "--output", "--keep"],
}  # fmt: skip


ARROWS = {
    "latent_store": {
        "cli": ("tools",),
        "__init__": ("views",),
        "tools": ("views", "codec"),
        "codec": ("format",),
        "torch": ("batches",),
        "batches": ("store",),
        "views": ("store",),
        "store": ("stored_sample",),
        "stored_sample": ("components",),
        "components": ("catalogue", "shards"),
        "catalogue": ("format",),
        "shards": ("format",),
        "format": ("storage",),
    },
    "training": {
        "commands": ("experiments",),
        "experiments": ("reports",),
        "reports": ("evaluation",),
        "evaluation": ("transmission",),
        "transmission": ("trainer",),
        "trainer": ("tasks",),
        "tasks": ("networks",),
        "networks": ("selection",),
        "selection": ("data",),
    },
    "pipelines": {
        "commands": ("jobs", "codec_training", "teacher_training"),
        "jobs": ("datasets",),
        "codec_training": ("scenes",),
        "teacher_training": ("datasets",),
        "scenes": ("datasets",),
    },
}
"""What each place of a room, a folder or a module at its root, may import: these, and whatever
these may. Modules at the root of `training` and `pipelines` are one place, their commands."""
GROUND_FLOOR = {
    "latent_store": ("errors", "extras", "console", "display", "line_progress"),
    "training": ("flags", "kinds", "own_code", "tables"),
    "pipelines": (),
}
"""Modules that every place of their room may import, and that import each other alone."""
DOORS = {
    ("latent_store.store", "latent_store.views.lazy"),
    ("latent_store.store", "latent_store.tools.decode"),
}
"""What a split opens by name, when it is asked for a view or a picture: not before, since it loads
what only an extra installs."""


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(*rooms: str) -> dict[str, Path]:
    """Returns every module by its name; a package's is that of its folder."""
    paths = (path for room in rooms for path in (ROOT / room).rglob("*.py"))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def import_graph(*rooms: str) -> dict[str, set[str]]:
    """Returns the modules that each module imports, wherever in it."""
    modules = modules_of(*rooms)
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        named = imports_of(path)
        found = (name if name in modules else name.rpartition(".")[0] for name in named)
        graph[module] = {name for name in found if name in modules}
    return graph


def place_of(module: str) -> str:
    """Returns the folder of a module, or what stands for it at the root of its room."""
    room, *rest = module.split(".")
    if not rest:
        return "__init__" if room == "latent_store" else "commands"
    if (ROOT / room / rest[0]).is_dir() or rest[0] in GROUND_FLOOR[room]:
        return rest[0]
    return rest[0] if room == "latent_store" else "commands"


def allowed(room: str, place: str) -> set[str]:
    """Returns the places that a place may import, itself included."""
    ground = GROUND_FLOOR[room]
    if place in ground:
        return set(ground)
    below = (allowed(room, other) for other in ARROWS[room].get(place, ()))
    return {place, *ground}.union(*below)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_one_to_its_right(room: str) -> None:
    forbidden = ROOMS[ROOMS.index(room) + 1 :]
    wrong = [
        (path.name, name)
        for path in (ROOT / room).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_folders_import_along_the_arrows_alone(room: str) -> None:
    wrong = {
        (module, place_of(other))
        for module, others in import_graph(room).items()
        for other in others
        if place_of(other) not in allowed(room, place_of(module))
    }
    assert sorted(wrong) == []


def test_no_module_imports_itself_by_a_detour() -> None:
    graphlib.TopologicalSorter(import_graph(*ROOMS)).prepare()


def test_what_is_opened_by_name_upwards_is_listed() -> None:
    found = {
        (module, node.args[0].value)
        for module, path in modules_of(*ROOMS).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "import_with_extra"
        and isinstance(node.args[0], ast.Constant)
    }
    assert found == DOORS


def test_every_folder_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_reader_imports_neither_torch_nor_beam() -> None:
    heavy = {"torch", "torchvision", "compressai", "apache_beam", "PIL", "matplotlib"}
    wrong = [
        (path.name, name)
        for path in (ROOT / "latent_store").glob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in heavy
    ]
    assert wrong == []


def test_every_command_of_the_contract_is_installed() -> None:
    assert set(CONTRACT) == set(SCRIPTS)


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_help_teaches_every_flag_of_the_contract(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: {command}" in text
    assert [name for name in CONTRACT[command] if name not in text] == []


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_bad_usage_exits_with_status_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = SCRIPTS[command].split(":")
    with pytest.raises(SystemExit) as stop:
        getattr(importlib.import_module(module), function)([])
    assert stop.value.code == 2
    assert command in capsys.readouterr().err
