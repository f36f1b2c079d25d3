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
