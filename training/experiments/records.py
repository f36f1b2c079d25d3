"""Records: what a finished run, or a ranking, leaves behind; all that the report needs.

One small JSON file each, below `runs/GRID/`. They are committed, so that a fresh clone goes on
where another machine stopped: a finished run is not run again, and a ranking is written into the
store from its record, without the network whose gate was counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_store import Ranking
from latent_store.errors import IntegrityError, LatentStoreError
from training.evaluation.points import Point, write_text
from training.experiments.timings import Timings

RECORD_VERSION = 1
RUNS = Path(__file__).parent / "runs"
_TIMINGS = "latency"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        name: Of the run.
        config: Everything that its numbers depend on, by name; plain types.
        points: One a network, several for any-N.
        facts: What is worth knowing but decides nothing: seconds, versions, the machine.
    """

    name: str
    config: Mapping[str, Any]
    points: tuple[Point, ...]
    facts: Mapping[str, Any]


def read_record(folder: Path, name: str, config: Mapping[str, Any]) -> Record | None:
    """Returns the record of a run, or None if it is still to be run.

    Args:
        folder: `runs/GRID`.
        name: Of the run.
        config: What the grid and the store ask for now.

    Raises:
        LatentStoreError: The run was finished under another configuration; names the field.
        IntegrityError: The file was damaged.
    """
    content = _read(folder / f"{name}.json")
    if content is None:
        return None
    _require_same(folder / f"{name}.json", content["config"], config)
    points = tuple(Point.from_json(_unpacked(p)) for p in content["points"])
    return Record(name=name, config=content["config"], points=points, facts=content["facts"])


def write_record(folder: Path, record: Record) -> None:
    """Writes a run's record whole or not at all."""
    content = {
        "version": RECORD_VERSION,
        "name": record.name,
        "config": dict(record.config),
        "facts": dict(record.facts),
        "points": [_packed(p.to_json()) for p in record.points],
    }
    write_text(folder / f"{record.name}.json", _dump(content))


def read_ranking_record(folder: Path, name: str, config: Mapping[str, Any]) -> Ranking | None:
    """Returns a ranking that was derived before, or None; see `read_record`."""
    content = _read(folder / f"{name}.json")
    if content is None:
        return None
    _require_same(folder / f"{name}.json", content["config"], config)
    return Ranking.from_json(content["ranking"])


def write_ranking_record(
    folder: Path, name: str, config: Mapping[str, Any], ranking: Ranking
) -> None:
    """Keeps a ranking."""
    content = {
        "version": RECORD_VERSION,
        "name": name,
        "config": dict(config),
        "ranking": ranking.to_json(),
    }
    write_text(folder / f"{name}.json", _dump(content))


def read_timings(folder: Path, config: Mapping[str, Any]) -> Timings | None:
    """Returns what was timed before, or None; see `read_record`."""
    content = _read(folder / f"{_TIMINGS}.json")
    if content is None:
        return None
    _require_same(folder / f"{_TIMINGS}.json", content["config"], config)
    return Timings(setting=content["setting"], latencies=content["latencies"])


def write_timings(folder: Path, config: Mapping[str, Any], timings: Timings) -> None:
    """Keeps what was timed."""
    content = {
        "version": RECORD_VERSION,
        "name": _TIMINGS,
        "config": dict(config),
        "setting": dict(timings.setting),
        "latencies": list(timings.latencies),
    }
    write_text(folder / f"{_TIMINGS}.json", _dump(content))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IntegrityError(
            f"{path} is no record ({error}); restore it, or delete it to run again"
        ) from error
    if content.get("version") != RECORD_VERSION:
        raise IntegrityError(
            f"{path} has version {content.get('version')!r}, expected {RECORD_VERSION}; delete it "
            "to run again"
        )
    return content


def _require_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # Through JSON, as the record went: tuples are lists there.
    plain = json.loads(json.dumps(dict(now)))
    for name in sorted({*was, *plain}):
        if was.get(name) != plain.get(name):
            raise LatentStoreError(
                f"{path} was run with {name} = {was.get(name)!r}, the grid and the store now have "
                f"{plain.get(name)!r}; restore that, name the grid anew, or delete the record to "
                "run again"
            )


def _packed(point: dict[str, Any]) -> dict[str, Any]:
    """Turns the images' equal-shaped dicts into columns, and leaves out classes never seen."""
    samples = point.pop("samples")
    seen = [
        k
        for k in range(len(point["class_names"]))
        if any(s["labelled"][k] or s["predicted"][k] for s in samples)
    ]
    columns: dict[str, Any] = {name: [s[name] for s in samples] for name in ("sample_id", "pixels")}
    columns["rate"] = {name: [s["rate"][name] for s in samples] for name in samples[0]["rate"]}
    for name in _COUNTS:
        columns[name] = [[s[name][k] for k in seen] for s in samples]
    return {**point, "seen": seen, "samples": columns}


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Any]:
    point = dict(packed)
    columns, seen = point.pop("samples"), point.pop("seen")
    classes = len(point["class_names"])

    def whole(counts: list[int]) -> list[int]:
        row = [0] * classes
        for k, count in zip(seen, counts, strict=True):
            row[k] = count
        return row

    point["samples"] = [
        {
            "sample_id": columns["sample_id"][i],
            "pixels": columns["pixels"][i],
            "rate": {name: values[i] for name, values in columns["rate"].items()},
            **{name: whole(columns[name][i]) for name in _COUNTS},
        }
        for i in range(len(columns["sample_id"]))
    ]
    return point


_COUNTS = ("hits", "labelled", "predicted")


def _dump(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line a top-level entry: small, and a change is a readable diff."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
