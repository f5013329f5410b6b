"""Runs the pages' modules that need no page, in the Node that comes with Playwright."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from playwright._impl._driver import compute_driver_executable

PACKAGE = Path(__file__).parents[2] / "imagegate"
NODE = compute_driver_executable()[0]


def javascript(script: str) -> Any:
    """What a script, which finds the package at ``here``, writes to its output as JSON."""
    script = f"const here = {json.dumps(PACKAGE.as_uri() + '/')};\n{script}"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)
