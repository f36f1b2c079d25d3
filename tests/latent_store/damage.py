"""Seeded damage: picks one object of a store or one stream file, damages it in a private copy,
reads everything through `latent_store`, and says what came of it.

Nothing but `detected` and `harmless` is allowed: `silent` means that wrong values came back,
`crash` that something other than a `LatentStoreError` did.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from latent_store import LatentStoreError
from latent_store.storage.location import CONTROL
from tests.latent_store.mutations import mutate, resealed, resealed_array, resealed_attrs
from tests.latent_store.readings import contents, read_everything

DETECTED, HARMLESS, SILENT, CRASH = "detected", "harmless", "silent", "crash"
ALLOWED = (DETECTED, HARMLESS)
KINDS = {
    "shard": r"^made/.*/c/",
    "array metadata": r"^made/.*/(?!c/)\w+/zarr\.json$",
    "codec": r"^codecs/[^/]+/(?!rankings)",
    "ranking": r"^codecs/[^/]+/rankings/",
    "index": r"(?<!/plan)/[^/]+\.parquet$",
    "receipt": r"/receipts/",
    "plan": r"/plan(\.json$|/)",
    "checkpoint": r"^\.latent_store/(codecs|teachers)/",
    "group metadata": r"zarr\.json$",
    "stream file": r"^streams/",
}
"""Kind of object -> what its key looks like; the first that fits."""
WEIGHTS = {"shard": 4, "array metadata": 2, "index": 2, "group metadata": 2, "receipt": 0.5}
"""How often a kind is picked; the others 1. Nobody reads receipts, so their damage is harmless."""
FLIP, TRUNCATE, DELETE, EMPTY, SWAP, FOREIGN, STALE, RESEAL, LONG, PIPE = DAMAGES = (
    "flip", "truncate", "delete", "empty", "swap", "foreign", "stale", "reseal", "long", "pipe",
)  # fmt: skip
"""`reseal`: other contents under checksums that were made right. `long`: as long as a disk, mostly
holes. `pipe`: no regular file."""
ENDLESS = 2**40
DESCRIPTIONS = (" spec", " ranking")
"""What resealed attributes may say of a codec or a ranking: nothing else knows it."""
IGNORED = re.compile(r"/leases/")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One damage.

    Attributes:
        changes: Key -> new bytes; None removes the object.
    """

    seed: int
    kind: str
    damage: str
    key: str
    changes: dict[str, bytes | None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial; `what` is the error, or what was read otherwise."""

    seed: int
    kind: str
    damage: str
    key: str
    result: str
    what: str


class Ground:
    """A made store (see `made_store`), its past, and a private copy that trials damage.

    Args:
        root: Holds `made.zarr` and `streams`; never written to.
        past: The store as it once was.
        scratch: An empty folder on the same file system, for the private copy.
    """

    def __init__(self, root: Path, past: Path, scratch: Path):
        self.root = root
        self.past = past
        self.copy = scratch / "copy"
        # Hard links: an object is replaced by another file, never written in place.
        shutil.copytree(root, self.copy, copy_function=os.link)
        self.wanted = contents(root / "made.zarr")

    @cached_property
    def expected(self) -> dict[str, str]:
        """Everything that the undamaged store gives."""
        return read_everything(self.root / "made.zarr", self.wanted, self._streams(self.root))

    @cached_property
    def keys(self) -> dict[str, list[str]]:
        """Keys by kind: of objects below `made.zarr` as in the store, and `streams/...`."""
        found: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for path in sorted(self.root.rglob("*")):
            key = str(path.relative_to(self.root)).removeprefix("made.zarr/")
            if path.is_file() and not IGNORED.search(key):
                found[_kind(key)].append(key)
        return found

    def trial(self, seed: int) -> Trial:
        """Returns the trial of a seed."""
        rng = random.Random(seed)
        while True:
            (kind,) = rng.choices(list(KINDS), [WEIGHTS.get(kind, 1) for kind in KINDS])
            key = rng.choice(self.keys[kind])
            # Most objects are no records, of which alone there is something to reseal.
            (damage,) = rng.choices(DAMAGES, [4 if d == RESEAL else 1 for d in DAMAGES])
            changes = self._changes(rng, kind, key, damage)
            if any(self._read(k) != data for k, data in changes.items()):
                return Trial(seed=seed, kind=kind, damage=damage, key=key, changes=changes)

    @contextmanager
    def damaged(self, trial: Trial) -> Iterator[Path]:
        """Yields the private copy's store with the damage, and mends it again."""
        try:
            for key, data in trial.changes.items():
                path = self._path(self.copy, key)
                path.unlink()
                if trial.damage == PIPE:
                    os.mkfifo(path)
                elif data is not None:
                    path.write_bytes(data)
                if trial.damage == LONG:
                    os.truncate(path, ENDLESS)
            yield self.copy / "made.zarr"
        finally:
            for key in trial.changes:
                path = self._path(self.copy, key)
                path.unlink(missing_ok=True)
                os.link(self._path(self.root, key), path)

    def run(self, seed: int) -> Outcome:
        """Runs the trial of a seed."""
        trial = self.trial(seed)
        with self.damaged(trial) as url:
            result, what = self._judge(url, trial)
        return Outcome(
            seed=seed,
            kind=trial.kind,
            damage=trial.damage,
            key=trial.key,
            result=result,
            what=what,
        )

    def _judge(self, url: Path, trial: Trial) -> tuple[str, str]:
        try:
            found = read_everything(url, self.wanted, self._streams(self.copy), first=trial.key)
        except LatentStoreError as error:
            return (DETECTED if "\n" not in str(error) else CRASH), str(error)
        except Exception as error:  # noqa: BLE001  (whatever escapes is what is looked for)
            return CRASH, f"{type(error).__name__}: {error}"
        wrong = [name for name, value in self.expected.items() if found.get(name) != value]
        if trial.damage == RESEAL:
            wrong = [name for name in wrong if not name.endswith(DESCRIPTIONS)]
        return (SILENT, ", ".join(wrong)) if wrong else (HARMLESS, "")

    def _changes(
        self, rng: random.Random, kind: str, key: str, damage: str
    ) -> dict[str, bytes | None]:
        data = self._read(key)
        if damage == FLIP:
            return {key: _flipped(rng, data)}
        if damage == TRUNCATE:
            return {key: data[: rng.randrange(len(data))]} if data else {}
        if damage == DELETE:
            return {key: None}
        if damage == EMPTY:
            return {key: b""}
        if kind == "stream file":
            return {}  # One whole stream file in place of another is another picture.
        if damage in (LONG, PIPE):
            return {key: data + b"\0"}
        if damage == RESEAL:
            return self._resealed(rng, key, data)
        if damage == STALE:
            old = self.past / key
            return {key: old.read_bytes()} if old.exists() else {}
        others = [other for other in self.keys[kind] if _alike(key, other, damage)]
        if not others:
            return {}
        other = rng.choice(others)
        return {key: self._read(other)} | ({other: data} if damage == SWAP else {})

    def _resealed(self, rng: random.Random, key: str, data: bytes) -> dict[str, bytes | None]:
        """Returns the changes that give a record, or a node's metadata, other contents."""

        def change(record: dict[str, Any]) -> dict[str, Any]:
            return mutate(record, rng)

        if key.endswith(".json") and key.startswith(CONTROL):
            return {key: resealed(data, change)}
        if not key.endswith("zarr.json"):
            return {}
        record = json.loads(data)
        if record["node_type"] == "group":
            return {key: resealed_attrs(data, change)} if "seal" in record["attributes"] else {}
        path = key.removesuffix("/zarr.json")
        for base in map(str, PurePosixPath(path).parents):
            group = self._read(f"{base}/zarr.json") if base != "." else b"{}"
            name = path.removeprefix(f"{base}/")
            if name in json.loads(group).get("attributes", {}).get("arrays", {}):
                growing = not key.startswith("codecs/")
                both = resealed_array(group, name, data, change, growing=growing)
                return dict(zip((f"{base}/zarr.json", key), both, strict=True))
        return {}

    def _streams(self, root: Path) -> list[Path]:
        return [root / key for key in self.keys["stream file"]]

    def _read(self, key: str) -> bytes:
        return self._path(self.root, key).read_bytes()

    def _path(self, root: Path, key: str) -> Path:
        return root / key if key.startswith("streams/") else root / "made.zarr" / key


def _kind(key: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, key))


def _alike(key: str, other: str, damage: str) -> bool:
    """Tells whether two objects can be taken for each other.

    Swapped are those of one folder tree (shards of one array, receipts of one component); foreign
    ones have the same name elsewhere (the same shard of another array or component).
    """
    if key == other:
        return False
    mine, theirs = _place(key), _place(other)
    if damage == SWAP:
        return mine[0] == theirs[0] or mine[1] != theirs[1]
    return mine[0] != theirs[0]


def _place(key: str) -> tuple[str, str]:
    """Splits a key into the array or folder it belongs to, and its name there."""
    folder, _, name = key.partition("/c/") if "/c/" in key else key.rpartition("/")
    return folder, name


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
