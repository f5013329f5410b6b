"""What ``pip install .`` brings: built, installed into a fresh environment, and run there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
BUILT_FROM = ("imagegate", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def run(*command: object, cwd: Path) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean(), capture_output=True, text=True,
        check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean() -> dict[str, str]:
    """The environment, without what would lead to the source tree or a store."""
    return {
        name: value for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("IMAGEGATE_")
    }  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel in it; it sees the requirements here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation",
        "--wheel-dir", folder, source, cwd=folder)  # fmt: skip
    (wheel,) = folder.glob("imagegate-*.whl")
    fresh = folder / "fresh"
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))",
                    cwd=folder).strip())  # fmt: skip
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (site / "requirements_here.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return fresh / "bin"


def test_the_wheel_carries_every_file(installed: Path, tmp_path: Path) -> None:
    """All packages, pages, web files and py.typed are in the wheel, and nothing else is."""
    where = run(
        installed / "python", "-c", "import imagegate; print(imagegate.__file__)", cwd=tmp_path
    )
    there = Path(where.strip()).parent
    assert there.is_relative_to(installed.parent)
    assert files(there) == files(ROOT / "imagegate")


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def test_the_command_explains_itself(installed: Path, tmp_path: Path) -> None:
    """``imagegate --help`` works, under that name."""
    assert run(installed / "imagegate", "--help", cwd=tmp_path).startswith("usage: imagegate ")


def test_the_command_sorts_samples(installed: Path, tmp_path: Path) -> None:
    """``imagegate`` serves the panel over sample images, and sorts what is decided."""
    with subprocess.Popen(
        [installed / "imagegate", "--no-browser", "--port", "0", "--out", tmp_path / "sorted"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
        env=clean() | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"},
    ) as process:  # fmt: skip
        late = threading.Timer(PATIENCE, process.kill)
        late.start()
        try:
            assert process.stdout
            said: list[str] = []
            url = ""
            while not url and (line := process.stdout.readline()):
                said.append(line)
                found = re.search(r"open (http://\S+)", line)
                url = found[1] if found else ""
            assert url, said
            (photos,) = tmp_path.glob("imagegate-samples-*/photos")
            decide_all(url, len(list(photos.iterdir())))
            process.send_signal(signal.SIGTERM)
            said.append(process.stdout.read())
            assert process.wait(PATIENCE) == 0, said
        finally:
            late.cancel()
            process.kill()
    kept = list((tmp_path / "sorted" / "keep").iterdir())
    assert kept
    assert f"{len(kept)} of {len(kept)} decided" in said[-1]


def decide_all(url: str, images: int) -> None:
    """Send every image to the first route, as they come; the panel is served, too."""
    until = time.monotonic() + PATIENCE
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        page = client.get("")
        assert page.status_code == 200
        assert "ig-" in page.text
        decided: set[str] = set()
        while len(decided) < images:
            assert time.monotonic() < until, f"{len(decided)} of {images} images came"
            for gate in client.get("api/gates").json()["gates"]:
                answer = client.post(f"api/gates/{gate['id']}/decision", json={"route": "keep"})
                assert answer.json()["outcome"] == "won"
                decided.add(gate["id"])
