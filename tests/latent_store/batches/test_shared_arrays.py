"""Arrays that another process hands over are the same, and its memory goes with them."""

import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

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


def count_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:arrays")
