"""The buses that the tests here run over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegate.gate_bus import GateBus
from tests.conftest import new_store


@pytest.fixture(params=["alone", "memory", "sqlite", "postgresql"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The bus of one process, and those over each kind of store."""
    if request.param == "alone":
        yield GateBus()
        return
    with new_store(request, request.param, tmp_path) as store:
        yield store.bus()
