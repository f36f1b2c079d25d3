"""The Dockerfiles and compose.yaml agree with the project: versions, paths, extras, commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
COMMANDS = {command.name for command in entry_points(group="console_scripts")}
COMMANDS |= set(PROJECT["scripts"])
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
    extras = re.findall(r"'\.\[([a-z0-9,]+)\]'", path.read_text())
    assert extras
    assert set(",".join(extras).split(",")) <= set(PROJECT["optional-dependencies"])
    for line in instructions(path, "CMD"):
        assert re.match(r'\["([a-z-]+)"', line).group(1) in COMMANDS


def installed_extras(path: Path) -> set[str]:
    """Returns the extras of an image, and those that they bring."""
    extras = set(",".join(re.findall(r"'\.\[([a-z0-9,]+)\]'", path.read_text())).split(","))
    text = str([PROJECT["optional-dependencies"][extra] for extra in extras])
    return extras.union(*(found.split(",") for found in re.findall(r"latent-store\[(.+?)\]", text)))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_every_image_opens_buckets(path: Path) -> None:
    assert {"s3", "gcs"} <= installed_extras(path)


def test_images_that_run_jobs_have_beam() -> None:
    for name in ("beam-worker", "trainer"):
        assert "beam" in installed_extras(ROOT / f"docker/{name}.Dockerfile")


def test_images_with_torch_let_its_build_be_chosen() -> None:
    for path in DOCKERFILES:
        chosen = "PIP_EXTRA_INDEX_URL" in instructions(path, "ARG")
        assert chosen == bool({"beam", "dataflow"} & installed_extras(path))


def test_nothing_travels_to_the_builder_but_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copies = [line for path in DOCKERFILES for line in instructions(path, "COPY")]
    copied = [line.split()[:-1] for line in copies if not line.startswith("--from")]
    assert kept == set().union(*copied)


def test_what_installs_is_in_the_constraints() -> None:
    for extra in ("s3", "gcs"):
        (line,) = PROJECT["optional-dependencies"][extra]
        assert re.match("[a-z0-9]+", line).group() in CONSTRAINTS


def test_the_worker_ends_in_beams_boot() -> None:
    worker = ROOT / "docker/beam-worker.Dockerfile"
    assert instructions(worker, "ENTRYPOINT") == ['["/opt/apache/beam/boot"]']
    assert "--from=beam_sdk /opt/apache/beam /opt/apache/beam" in instructions(worker, "COPY")


def test_services_run_an_image_and_commands_that_exist() -> None:
    assert set(COMPOSE["services"]) == {"scheduler", "worker", "notebook", "trainer"}
    for service in COMPOSE["services"].values():
        assert ROOT / service["build"]["dockerfile"] in DOCKERFILES
        assert set(service.get("depends_on", [])) <= set(COMPOSE["services"])
        if "command" in service:
            assert service["command"][0] in COMMANDS


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_dask_takes_the_flags_of_its_services(name: str) -> None:
    command = COMPOSE["services"][name]["command"]
    done = subprocess.run(
        [sys.executable, "-m", *command[:2], "--help"], capture_output=True, text=True, check=True
    )
    assert command[1] == name
    assert [flag for flag in command if flag.startswith("--") and flag not in done.stdout] == []


def test_services_find_each_other_and_the_same_store() -> None:
    services = COMPOSE["services"]
    port = services["scheduler"]["command"][-1]
    address = f"tcp://scheduler:{port}"
    assert address in services["worker"]["command"]
    assert services["notebook"]["environment"]["DASK_SCHEDULER_ADDRESS"] == address
    assert services["worker"]["volumes"] == services["notebook"]["volumes"]
    notebooks = [path.read_text() for path in (ROOT / "latent_store/notebooks").glob("*.ipynb")]
    for variable in services["notebook"]["environment"]:
        assert any(variable in text for text in notebooks)


def test_a_gpu_is_asked_for_by_the_service_that_only_its_profile_starts() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "profiles" in service] == ["trainer"]
    trainer = services["trainer"]
    assert trainer["profiles"] == ["gpu"]
    (device,) = trainer["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "trainer" not in str([service.get("depends_on") for service in services.values()])
    # The store is read, its runs are written.
    store, runs = trainer["volumes"]
    assert store == services["notebook"]["volumes"][0]
    assert runs.endswith(":/runs")
    assert trainer["image"] in (ROOT / "docker/trainer.Dockerfile").read_text()
