"""Records of finished runs, rankings and timings: all that the report needs.

One small JSON file each, below `runs/GRID/`. They are committed, so that a fresh clone goes on
where another machine stopped: a finished run is not run again, and a ranking is written into the
store from its record, without the network whose gate was counted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_store import Ranking
from latent_store.errors import IntegrityError, LatentStoreError
from latent_store.storage.local_files import write_text
from training.evaluation.points import Point

RECORD_VERSION = 1
RUNS = Path(__file__).parent / "runs"
RANKING = "ranking"
"""How the names of rankings' records begin."""
_TEACHER = "teacher"
"""Absent where a store lacks it: each seed may have its own, and be made on another machine."""
_TIMINGS = "latency"
_COUNTS = ("hits", "labelled", "predicted")
"""Pixels of an image's map, one number a class."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        name: Of the run.
        config: Everything that its numbers depend on, by name; plain types.
        points: One a network, several for any-N.
        curve: Steps and score on the held-out samples, as training went on; empty without any.
        facts: Seconds, versions, the machine: worth knowing, but nothing depends on them.
    """

    name: str
    config: Mapping[str, Any]
    points: tuple[Point, ...]
    facts: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The latencies of a grid's networks, measured by `training.latency` in one sitting.

    Attributes:
        setting: The machine, the pictures, the number of runs.
        latencies: One entry a network: "kind" as the paper's table calls it, "channels", and
            "encode", "decode" and "total" with their medians, "p10" and "p90" in milliseconds.
    """

    setting: Mapping[str, Any]
    latencies: Sequence[Mapping[str, Any]]


def read_record(folder: Path, name: str, config: Mapping[str, Any]) -> Record | None:
    """Returns the record of a run, or None if it is still to be run.

    Args:
        folder: `runs/GRID`.
        name: Of the run.
        config: As the grid and the store ask for now; what it leaves out is not compared.

    Raises:
        LatentStoreError: The run was finished under another configuration; names the field.
        IntegrityError: The file was damaged.
    """
    path = folder / f"{name}.json"
    content = _read(path, config)
    if content is None:
        return None
    with _whole(path):
        if not content["points"]:
            raise ValueError("it has no point")
        return Record(
            name=name,
            config=content["config"],
            points=tuple(Point.from_json(_unpacked(p)) for p in content["points"]),
            facts=content["facts"],
            curve=tuple((int(step), float(score)) for step, score in content.get("curve", ())),
        )


def write_record(folder: Path, record: Record) -> None:
    """Writes a run's record whole or not at all."""
    points = [_packed(p.to_json()) for p in record.points]
    curve = {"curve": record.curve} if record.curve else {}
    _write(folder, record.name, record.config, facts=dict(record.facts), **curve, points=points)


def read_ranking_record(folder: Path, name: str, config: Mapping[str, Any]) -> Ranking | None:
    """Returns a ranking that was derived before, or None; see `read_record`."""
    path = folder / f"{name}.json"
    content = _read(path, config)
    if content is None:
        return None
    with _whole(path):
        return Ranking.from_json(content["ranking"])


def read_rankings(folder: Path) -> list[Ranking]:
    """Returns every ranking that was derived before, by the names of their files."""
    paths = sorted(folder.glob(f"{RANKING}-*.json"))
    found = [read_ranking_record(folder, path.stem, {}) for path in paths]
    return [ranking for ranking in found if ranking is not None]


def write_ranking_record(
    folder: Path, name: str, config: Mapping[str, Any], ranking: Ranking
) -> None:
    """Keeps a ranking."""
    _write(folder, name, config, ranking=ranking.to_json())


def read_timings(folder: Path, config: Mapping[str, Any]) -> Timings | None:
    """Returns the timings that were measured before, or None; see `read_record`."""
    path = folder / f"{_TIMINGS}.json"
    content = _read(path, config)
    if content is None:
        return None
    with _whole(path):
        return Timings(setting=content["setting"], latencies=content["latencies"])


def write_timings(folder: Path, config: Mapping[str, Any], timings: Timings) -> None:
    """Keeps timings."""
    _write(folder, _TIMINGS, config, **vars(timings))


def _read(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a record's content, None without a file; refuses that of another configuration."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    with _whole(path):
        content: dict[str, Any] = json.loads(text)
        version = content.get("version")
    if version != RECORD_VERSION:
        raise IntegrityError(
            f"{path} has version {version!r}, expected {RECORD_VERSION}; delete it to run again"
        )
    with _whole(path):
        was = dict(content["config"])
    now = json.loads(json.dumps(config))  # as the record went: tuples are lists there
    for name in now:
        if not _agrees(was.get(name), now[name]):
            raise LatentStoreError(
                f"{path} was run with {name} = {was.get(name)!r}, the grid and the store now have "
                f"{now.get(name)!r}; restore that, name the grid anew, or delete the record to "
                "run again"
            )
    return content


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns whatever the content of a damaged record leads to into one line that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise IntegrityError(
            f"{path} is no record ({what}); restore it, or delete it to run again"
        ) from error


def _agrees(was: Any, now: Any) -> bool:
    """Returns whether values are equal but for teachers, at any depth, that `now` leaves out."""
    if isinstance(was, dict) and isinstance(now, dict):
        same = was.keys() - now.keys() <= {_TEACHER} and now.keys() <= was.keys()
        return same and all(_agrees(was[name], value) for name, value in now.items())
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(_agrees, was, now))
    return bool(was == now)


def _write(folder: Path, name: str, config: Mapping[str, Any], **content: Any) -> None:
    """Writes JSON with one line a top-level entry: small, and a change is a readable diff."""
    content = {"version": RECORD_VERSION, "name": name, "config": dict(config), **content}
    lines = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in content.items())
    write_text(folder / f"{name}.json", "{\n" + ",\n".join(lines) + "\n}\n")


def _packed(point: dict[str, Any]) -> dict[str, Any]:
    """Turns the images' dicts into columns, and leaves out classes that no map has."""
    columns: dict[str, Any] = _columns(point.pop("samples"))
    columns["rate"] = _columns(columns["rate"])
    counts = [columns[name] for name in _counts_of(columns)]
    seen = [k for k in range(len(point["class_names"])) if any(r[k] for c in counts for r in c)]
    for name in _counts_of(columns):
        columns[name] = [[row[k] for k in seen] for row in columns[name]]
    return {**point, "seen": seen, "samples": columns}


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Any]:
    point = dict(packed)
    columns, seen = dict(point.pop("samples")), point.pop("seen")
    columns["rate"] = _rows(columns["rate"])
    for name in _counts_of(columns):
        found = [dict(zip(seen, row, strict=True)) for row in columns[name]]
        columns[name] = [[row.get(k, 0) for k in range(len(point["class_names"]))] for row in found]
    return {**point, "samples": _rows(columns)}


def _counts_of(columns: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of an image's numbers by class; what was found as boxes has none."""
    return _COUNTS if "labelled" in columns else ()


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
