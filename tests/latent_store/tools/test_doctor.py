"""`latent-store doctor`: one line each, and a remedy with every problem."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from latent_store import cli
from latent_store.codec.families.registry import FAMILIES
from latent_store.storage.location import Location
from latent_store.tools import doctor
from latent_store.tools.doctor import ABSENT, OK, PROBLEM, Finding, examine


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def found(name: str, location: Location | None = None) -> Finding:
    (one,) = (finding for finding in examine(location) if finding.name == name)
    return one


def test_what_runs_the_tests_is_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What lies beside the packages is the machine's matter: room, a home, a driver.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 0, 2**40))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["fit", "findings"]
    assert told["fit"] is True
    by_name = {f["name"]: f for f in told["findings"]}
    assert list(by_name["zarr"]) == ["name", "state", "found", "remedy"]
    assert by_name["zarr"]["found"] == metadata.version("zarr")
    assert by_name["torch pair"]["state"] == OK
    assert {"python", "bf16", "codec cache", "disk"} <= by_name.keys()
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(told["findings"])
    assert f"OK       zarr           {metadata.version('zarr')}" in lines


def test_a_problem_has_a_remedy_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 2**30, 2**30))
    assert found("disk", Location(tmp_path)).found == f"1.0 GiB free at {tmp_path}"
    assert cli.main(["doctor", str(tmp_path / "not-yet.zarr")]) == 1
    assert "PROBLEM  disk           1.0 GiB free at " in capsys.readouterr().out


def test_the_zoos_files_of_every_family_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    (tmp_path / "resnet50-0676ba61.pth").touch()
    assert "empty, --quality downloads into it; cannot be" in doctor._codec_cache(tmp_path).found
    assert doctor._codec_cache(tmp_path).state == PROBLEM
    for family in FAMILIES:
        folder = tmp_path / family
        folder.mkdir()
        (folder / f"{family}-4-0123abcd.pth.tar").touch()
        cache = doctor._codec_cache(folder)
        assert cache.found == f"{folder}: {family}-4-0123abcd.pth.tar; cannot be written"
        assert (cache.state, cache.remedy) == (OK, "")


def test_versions_are_held_against_the_distributions_own_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = ["zarr>=99", "nobody-has-this>=1", "nor-this; extra == 'train'", "msgspec>=0.19"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: listed)
    by_name = {finding.name: finding for finding in doctor._packages()}
    zarr = metadata.version("zarr")
    assert str(by_name["zarr"]) == (
        f"PROBLEM  zarr           {zarr}, and >=99 is needed; pip install 'zarr>=99'"
    )
    missing = by_name["nobody-has-this"]
    assert (missing.state, missing.remedy) == (PROBLEM, "pip install latent-store")
    optional = by_name["nor-this"]
    assert (optional.state, optional.remedy) == (ABSENT, "pip install 'latent-store[train]'")
    assert by_name["msgspec"].state == OK


def test_a_torchvision_for_another_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["torch==1.0", "numpy"])
    torch = pytest.importorskip("torch")
    pair = doctor._pair(torch)
    assert pair.state == PROBLEM
    assert "which is built for torch ==1.0; install torch and torchvision together" in str(pair)
