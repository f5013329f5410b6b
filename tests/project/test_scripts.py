"""The checks of the pages' scripts: Biome, TypeScript over JSDoc, tests that need no page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.javascript import NODE, PACKAGE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "node_modules" / ".bin"
UNIT_TESTS = sorted((ROOT / "tests" / "page").glob("*.test.js"))


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(part) for part in command]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_modules_without_a_page_do_what_they_claim() -> None:
    """``node --test`` passes, and runs every test file there is."""
    done = run(NODE, "--test", "--test-reporter=tap", *UNIT_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= len(UNIT_TESTS) > 0


@pytest.mark.parametrize("command", [["biome", "ci"], ["tsc"]], ids=["biome", "tsc"])
def test_checks_pass(command: list[str]) -> None:
    """Biome finds nothing and all is formatted; the types in the comments are true."""
    name, *arguments = command
    if not (TOOLS / name).exists():
        why = f"{name} is not here: npm ci"
        if os.environ.get("CI") == "true" and shutil.which("node"):
            pytest.fail(why)
        pytest.skip(why)
    done = run(TOOLS / name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_file_names_no_registry() -> None:
    """Each machine asks the registry that it is set up for; what comes is checked by its hash."""
    lock = (ROOT / "package-lock.json").read_text("utf-8")
    assert '"resolved"' not in lock
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')


def test_no_script_is_long_and_no_folder_is_full() -> None:
    """A module has at most 400 lines, and a folder of what links open at most eleven files."""
    scripts = [*(PACKAGE / "page").rglob("*.js"), *(PACKAGE / "web").rglob("*.js")]
    long = [path.name for path in scripts if len(path.read_text("utf-8").splitlines()) > 400]
    assert long == []
    folders = [PACKAGE / "page" / name for name in ("approver", "shared", "shared/queue")]
    counts = [sum(path.is_file() for path in folder.iterdir()) for folder in folders]
    assert max(counts) <= 11
