"""What this room's tests share."""

from __future__ import annotations

import pytest

from tests.latent_store.counted import Fetched, count_fetches


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """What is fetched from stores that are opened during the test."""
    return count_fetches(monkeypatch)
