"""The Dockerfiles agree with the project: versions, paths, extras and commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


def instructions(path: Path, name: str) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_all_that_is_installed(path: Path) -> None:
    copied = [
        source
        for line in instructions(path, "COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in copied)
    assert {"latent_store", "training", "pipelines", "pyproject.toml"} <= set(copied)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_versions_are_those_of_the_project(path: Path) -> None:
    arguments = dict(line.split("=") for line in instructions(path, "ARG") if "=" in line)
    minor = int(arguments["PYTHON_VERSION"].split(".")[1])
    assert minor >= int(re.search(r"3\.(\d+)", PROJECT["requires-python"]).group(1))
    if "BEAM_VERSION" in arguments:
        assert arguments["BEAM_VERSION"] == CONSTRAINTS["apache-beam"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_installed_extras_and_commands_exist(path: Path) -> None:
    extras = re.findall(r"'\.\[([a-z,]+)\]'", path.read_text())
    assert extras
    assert set(",".join(extras).split(",")) <= set(PROJECT["optional-dependencies"])
    for line in instructions(path, "CMD"):
        assert re.match(r'\["([a-z-]+)"', line).group(1) in PROJECT["scripts"]


def test_the_worker_ends_in_beams_boot() -> None:
    worker = ROOT / "docker/beam-worker.Dockerfile"
    assert instructions(worker, "ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert "--from=beam_sdk /opt/apache/beam /opt/apache/beam" in instructions(worker, "COPY")
