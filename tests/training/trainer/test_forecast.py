"""What a run takes is told after its first steps, before somebody waits for it."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from training.trainer.run_log import Forecast


@pytest.mark.parametrize(
    ("seconds", "total", "level", "text"),
    [
        (12.0, 74_400, "WARNING", "at 12 s a step the 74397 steps that are left take about 10.3 d"),
        (2.0, 1000, "INFO", "at 2 s a step the 989 steps that are left take about 33 min on cpu"),
        (0.01, 1000, None, ""),
        (2.0, 30, None, ""),
    ],
)
def test_a_forecast_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    total: int,
    level: str | None,
    text: str,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    forecast = Forecast(torch.device("cpu"))
    with caplog.at_level(logging.INFO):
        for step in range(1, 29):
            # The first step loads and compiles.
            now[0] += 500 if step == 1 else seconds
            forecast.tell(step, total)
    assert [record.levelname for record in caplog.records] == [level] * (level is not None)
    assert text in caplog.text
    if level == "WARNING":
        assert "a smaller --preset or --backbone, fewer --epochs or --max_steps" in caplog.text


def test_a_first_step_that_takes_long_is_told_of_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    forecast = Forecast(torch.device("cpu"))
    forecast.begin()
    told = []
    with caplog.at_level(logging.INFO):
        for step in (1, 2, 3):
            now[0] += 72
            forecast.tell(step, 101)
            told.append(len(caplog.records))
    assert told == [1, 2, 2]
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("the first step took 72 s, loading included; at most 2.0 h for the 100")
    assert second.startswith("at 72 s a step the 99 steps that are left take about 2.0 h on cpu")


def test_a_quick_first_step_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    forecast = Forecast(torch.device("cpu"))
    forecast.begin()
    with caplog.at_level(logging.INFO):
        forecast.tell(1, 10**9)
    assert not caplog.records
