"""Kill -9 of everybody while gates are asked and answered, small; `scripts/kill_nine.py` is it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_nine.py"
GATES = 40
PATIENCE = 240.0
"""Seconds, of which it needs some 25 where nothing else runs."""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_is_lost_when_everybody_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """After kills of workers, panel and database each gate and each acknowledged answer is there,
    and what hangs on the chosen route has run, with the right image and mask, and nothing else.
    """
    if kind == "postgresql":
        request.getfixturevalue("postgresql")  # skips where there is none
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--store", kind, "--gates", str(GATES), "--kills", "4",
         "--every", "3", "--haste", "4", "--keep", str(tmp_path / "run"), "--json"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert run.stdout, run.stderr
    found = json.loads(run.stdout)
    assert found["problems"] == []
    assert run.returncode == 0
    counts = found["counts"]
    assert counts["kills"] == 4
    # Everybody's turn came.
    assert counts["kills of panel"] >= 1
    assert counts["kills of worker 0"] + counts["kills of worker 1"] >= 2
    assert counts.get("kills of postgresql", 0) == (kind == "postgresql")
    assert counts["gates published (acknowledged by the bus)"] >= GATES
    assert counts["decisions acknowledged"] >= GATES / 2
    assert counts["downstream runs, right route, image and mask"] >= GATES / 2
