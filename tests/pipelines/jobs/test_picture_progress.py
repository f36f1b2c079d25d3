"""The bar of a job moves by pictures: those of finished shards, and those under way here."""

from __future__ import annotations

import functools
import re
import threading
from pathlib import Path
from typing import Any

import latent_store
from latent_store.components.writer import ShardWriter
from latent_store.line_progress import LineProgress
from pipelines import encode
from pipelines.jobs import component_job
from tests.conftest import VAL
from tests.pipelines.test_encode import codec_args


def test_pictures_are_counted_before_their_shard_is_written(
    scene_root: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    counted, write = threading.Event(), ShardWriter.write

    class Told(LineProgress):
        def update(self, count: float = 1) -> None:
            super().update(count)
            if self.n:
                counted.set()

    def write_once_counted(self: ShardWriter, *parts: Any) -> Any:
        assert counted.wait(60), "nobody counted pictures before their shard was written"
        return write(self, *parts)

    monkeypatch.setattr(ShardWriter, "write", write_once_counted)
    monkeypatch.setattr(component_job, "progress", functools.partial(Told, seconds=0))
    monkeypatch.setattr(component_job, "_QUIET_POLL_SECONDS", 0.001)
    words = codec_args(scene_root, tmp_path / "s.zarr")
    words[words.index("--samples_per_shard") + 1] = str(VAL)
    assert encode.main(words) == 0
    assert latent_store.open(tmp_path / "s.zarr")["cityscapes/val"].plan.num_shards == 1
    found = re.findall(rf"encode cityscapes/val: (\d+) of {VAL} pictures", capsys.readouterr().err)
    counts = [int(count) for count in found]
    assert counts == sorted(set(counts))
    assert counts[-1] == VAL
    assert component_job._UNDER_WAY == {}
