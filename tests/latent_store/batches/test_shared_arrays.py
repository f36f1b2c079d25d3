"""Arrays that another process hands over are the same, and its memory goes with them."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from latent_store.batches.shared_arrays import LEAST, sendable


def made(shape: tuple[int, ...], dtype: str) -> list:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return [sendable(part) for part in (array, array[::2], array[:1, ..., :1], "text")]


def test_arrays_arrive_whole_and_leave_nothing() -> None:
    shape = (4, LEAST, 3)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for dtype in ("int8", "float32"):
            found = pool.submit(made, shape, dtype).result()
            expected = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
            whole, strided, small, text = found
            np.testing.assert_array_equal(whole, expected)
            np.testing.assert_array_equal(strided, expected[::2])
            np.testing.assert_array_equal(small, expected[:1, ..., :1])
            assert text == "text"
            assert whole.flags.writeable
        mapped, files = count_mapped(), len(list(Path("/proc/self/fd").iterdir()))
        del found, whole, strided
        gc.collect()
        assert count_mapped() == mapped - 2
        assert len(list(Path("/proc/self/fd").iterdir())) <= files - 2


def test_where_no_socket_can_be_they_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in range(2):
            whole, *_ = pool.submit(made, (4, LEAST), "int32").result()
            np.testing.assert_array_equal(whole, np.arange(4 * LEAST).reshape(4, LEAST))
            assert whole.flags.writeable


KILLED = """
import os, signal
import numpy as np
from latent_store.batches.prefetch import Prefetcher
from tests.latent_store.batches.test_shared_arrays import made
if __name__ == "__main__":
    found = Prefetcher(made, workers=1, kind="process").map([((4, 2**16), "int32")] * 3)
    print(len(next(found)), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_of_a_killed_process_leave_no_folder(tmp_path: Path) -> None:
    script, folder = tmp_path / "killed.py", tmp_path / "tmp"
    script.write_text(KILLED)
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.read().strip() == b"4"  # ends when the workers have ended too
    assert process.returncode == -signal.SIGKILL
    assert not list(folder.iterdir())


def count_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:arrays")
