"""Starts a real ComfyUI once for all live tests.

``COMFYUI_DIR`` is a checkout of ComfyUI and ``COMFYUI_PYTHON`` the Python it runs with, into which
this pack's requirements are installed. Without both, every test here is skipped. In
``COMFYUI_FRONT_END`` may be named the ``static`` folder of another comfyui-frontend-package.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser

from tests.live.comfyui import Comfy, until
from tests.live.front import Front
from tests.support.browser import chromium as open_chromium
from tests.support.postgres import PostgreSQL

HERE = Path(__file__).parent
PACK = HERE.parents[1]
VUE_NODES_SINCE = (0, 4)


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A ComfyUI with this pack and the nodes of ``nodes/``, and nothing else."""
    with running(tmp_path_factory.mktemp("comfyui")) as comfy:
        until(comfy.panel_runs, "panel", within=60)
        yield comfy


@pytest.fixture
def comfyui_without_gradio(tmp_path: Path) -> Iterator[Comfy]:
    """A ComfyUI into whose Python nobody has installed the requirements of this pack."""
    missing = tmp_path / "missing"
    missing.mkdir()
    # Gradio brings the others.
    for module in ("gradio", "fastapi", "starlette", "uvicorn"):
        (missing / f"{module}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')\n"
        )
    path = os.pathsep.join(filter(None, [str(missing), os.environ.get("PYTHONPATH")]))
    with running(tmp_path / "base", PYTHONPATH=path) as comfy:
        yield comfy


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """The URL of a fresh store in a PostgreSQL."""
    with PostgreSQL() as server:
        server.create("live")
        yield server.url("live")


@contextmanager
def running(base: Path, *arguments: str, **environment: str) -> Iterator[Comfy]:
    """A ComfyUI of its own, from its start to its end; on the same ``base`` it is the same one."""
    checkout, python = os.environ.get("COMFYUI_DIR"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        pytest.skip("no ComfyUI: set COMFYUI_DIR and COMFYUI_PYTHON")
    # As everybody's second start finds it: the import time shall not be the compiler's.
    subprocess.run([python, "-m", "compileall", "-q", PACK / "imagegate"], check=True)
    if not base.joinpath("custom_nodes").exists():
        _furnish(base)
    log = base / "comfyui.log"
    port = _free_port()
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [python, "main.py", *_arguments(base, port), *arguments],
            cwd=checkout, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            # Threads beyond the machine's cores only slow a small machine down.
            env={"OMP_NUM_THREADS": "1", **os.environ, **environment},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _modules(process, url, log), "answer of ComfyUI", within=120)
        # What every page asks when it is opened; it must not start the panel.
        httpx.get(f"{url}/imagegate/notices")
        comfy = Comfy(url, base, log, _modules(process, url, log), process)
        yield comfy
        comfy.http.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def comfy(comfyui: Comfy) -> Iterator[Comfy]:
    """The ComfyUI, with nothing running before and after."""
    comfyui.settle()
    yield comfyui
    comfyui.settle()


@pytest.fixture(scope="session")
def chromium(comfyui: Comfy) -> Iterator[Browser]:
    """One Chromium for all tests."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def front(
    request: pytest.FixtureRequest, comfy: Comfy, chromium: Browser, tmp_path: Path
) -> Iterator[Front]:
    """The front end, on the canvas or with Vue nodes, dark or light, as the test's parameter says.

    After the test, nothing of ours may have complained in the browser's console.
    """
    kind: str = getattr(request, "param", "canvas")
    version = tuple(int(part) for part in comfy.version.split(".")[:2])
    if kind == "vue" and version < VUE_NODES_SINCE:
        pytest.skip(f"ComfyUI {comfy.version} has no Vue nodes")
    for setting, value in {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": kind == "vue",
        "Comfy.ColorPalette": "light" if kind == "light" else "dark",
    }.items():
        comfy.http.post(f"/settings/{setting}", content=json.dumps(value))
    shots = Path(os.environ.get("IMAGEGATE_SHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    context = chromium.new_context(viewport={"width": 1500, "height": 950})
    front = Front(context.new_page(), comfy, kind == "vue", shots)
    front.open()
    yield front
    context.close()
    assert front.complaints == []


@pytest.fixture
def name() -> str:
    """A name for the files of this test."""
    return uuid.uuid4().hex[:8]


def _furnish(base: Path) -> None:
    for folder in ("custom_nodes", "input", "output", "temp", "models", "user/default"):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "imagegate").symlink_to(PACK)
    (base / "custom_nodes" / "live_nodes").symlink_to(HERE / "nodes")
    _example_image().save(base / "input" / "example.png")


def _example_image() -> Image.Image:
    """What the example workflow loads; ComfyUI itself comes with a picture of this name."""
    image = Image.linear_gradient("L").resize((768, 512)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((260, 90, 560, 390), fill=(232, 120, 60))
    draw.rectangle((90, 300, 330, 460), fill=(40, 110, 190))
    return image


def _arguments(base: Path, port: int) -> list[str]:
    front_end = os.environ.get("COMFYUI_FRONT_END")
    return [
        *(["--front-end-root", front_end] if front_end else []),
        "--cpu", "--disable-api-nodes", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(base), "--user-directory", str(base / "user"),
        "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _modules(process: subprocess.Popen[bytes], url: str, log: Path) -> set[str]:
    """What ComfyUI has imported; empty while it does not answer yet."""
    if process.poll() is not None:
        pytest.fail(f"ComfyUI ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    try:
        return set(httpx.get(f"{url}/live/modules", timeout=5).json())
    except httpx.TransportError:
        return set()
