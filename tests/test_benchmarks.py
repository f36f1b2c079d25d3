"""Every benchmark runs, on a few scenes; what it measures on real images is in MEASUREMENTS.md."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import teacher_features
from tests.conftest import TinyStore


def table_rows(text: str) -> list[list[str]]:
    """Returns the cells of a Markdown table, header and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_features_of_every_encoding_are_measured(tiny_store: TinyStore, capsys: Any) -> None:
    args = ["--data_root", str(tiny_store.data_root), "--images", "2", "--keepbits", "3", "6"]
    assert teacher_features.main(args) == 0
    rows = table_rows(capsys.readouterr().out)
    names, sizes, errors = zip(*(row[:3] for row in rows), strict=True)
    assert names == (
        *("uint8", "float16", "float16-bitround (3 bits)", "float16-bitround (6 bits)"),
    )
    uint8, float16, three, six = (int(size.replace(",", "")) for size in sizes)
    assert three < six < float16
    assert uint8 < float16
    uint8, float16, three, six = map(float, errors)
    assert float16 < six < three < 2.0**-4
    assert 0 < uint8 < 0.01
