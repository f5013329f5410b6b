"""What the pack costs: at the start, with very many gates, with very many tabs."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

from .looking import browser, new_context, open_page
from .measure import ROOT, NotRun, Row, samples
from .served import Held, Served, served

GATES = 10_000
API = "/imagegate/api"
PATIENCE = 30.0  # s for closed tabs to be noticed

# As ComfyUI does it: a name made from the path, and a `server` module that is there already.
IMPORT = """
import aiohttp.web, asyncio, json, logging, numpy, PIL.Image, sys, threading, time, torch, types
import importlib.util, torch.nn.functional, concurrent.futures
from pathlib import Path

class Server:
    instance = None
    routes = aiohttp.web.RouteTableDef()
    app = aiohttp.web.Application()
    def send_sync(self, *_): ...

Server.instance = Server()
sys.modules["server"] = types.ModuleType("server")
sys.modules["server"].PromptServer = Server
root = Path(sys.argv[1])
before, started = set(sys.modules), time.perf_counter()
name = str(root).replace(".", "_x_")
spec = importlib.util.spec_from_file_location(
    name, root / "__init__.py", submodule_search_locations=[str(root)]
)
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
seconds = time.perf_counter() - started
assert "ImageGate" in module.NODE_CLASS_MAPPINGS and len(Server.routes) > 0
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not brought & {"gradio", "fastapi", "uvicorn"}, sorted(brought)
assert threading.active_count() == 1, threading.enumerate()
heavy = sorted(brought & {"starlette", "pydantic", "anyio"})
print(json.dumps({"seconds": seconds, "brought": heavy}))
"""


def pack_import(quick: bool) -> list[Row]:
    """Executing the pack's ``__init__.py`` in a fresh Python.

    That has torch, numpy, Pillow and aiohttp already, as ComfyUI's has by then, and the bytecode is
    cached, as from the second start on. Fails if it imports gradio, fastapi or uvicorn, or starts a
    thread.
    """
    brought: list[str] = []

    def once() -> float:
        with tempfile.TemporaryDirectory() as nowhere:  # not a folder that could hide a module
            run = subprocess.run(
                [sys.executable, "-c", IMPORT, str(ROOT)],
                capture_output=True, text=True, check=False, cwd=nowhere,
            )  # fmt: skip
        assert run.returncode == 0, run.stderr
        told = json.loads(run.stdout)
        brought[:] = told["brought"]
        return float(told["seconds"])

    times = samples(3 if quick else 10, once, warm_up=1)
    return [
        Row(
            "pack import",
            str(times),
            "50 ms, no gradio, nothing started",
            times.p50 <= 50,
            how=f"N={times.count} fresh interpreters, no gradio or fastapi, no thread"
            + (f"; it imports {', '.join(brought)}" if brought else ""),
        )
    ]


def ten_thousand(quick: bool) -> list[Row]:
    """10,000 gates waiting in a process of their own: the list, the page, the memory.

    The list: one REST call for 50 gates over an open connection. The page: from the start of the
    navigation, nothing cached, until the first image is drawn. The memory: how much the process
    grew, after all this was asked of it.
    """
    with served() as panel:
        before = panel.publish(0)
        url = panel.publish(GATES).url
        place = urlsplit(url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port)

        def ask() -> float:
            started = time.perf_counter()
            connection.request("GET", f"{API}/gates?limit=50")
            body = connection.getresponse().read()
            seconds = time.perf_counter() - started
            told = json.loads(body)
            assert (len(told["gates"]), told["waiting"]) == (50, GATES)
            return seconds

        listed = samples(20 if quick else 200, ask)
        connection.close()
        page = _page(url, 3 if quick else 10)
        grown = panel.publish(0).memory - before.memory
    what = f"{GATES:,} gates waiting: "
    return [
        Row(f"{what}list of 50", str(listed), "50 ms", listed.p50 <= 50, how=f"N={listed.count}"),
        page,
        Row(
            f"{what}memory",
            f"{grown:.0f} MB",
            "200 MB",
            grown <= 200,
            how="records and 64 px previews, resident",
        ),
    ]


def _page(url: str, count: int) -> Row:
    what, target = f"{GATES:,} gates waiting: page to first image", "2 s"
    try:
        with browser() as chrome:

            def once() -> float:
                context = new_context(chrome)
                page = context.new_page()
                page.goto(url, wait_until="commit")
                at = page.evaluate("async () => (await igSeen('first')).at")
                context.close()
                return float(at) / 1000

            times = samples(count, once, warm_up=1)
    except NotRun as missing:
        return Row(what, f"not run: {missing}", target, None)
    how = f"N={times.count}, an empty cache each time"
    return Row(what, str(times), target, times.p50 <= 2000, how=how)


def tabs(quick: bool) -> list[Row]:
    """What a panel holds before 200 tabs were opened and closed, and after.

    One in ten is a real page in Chromium, the others are a page's event stream on its own. Gates
    are published meanwhile, so that there is something to say to them.
    """
    streams, pages = (36, 4) if quick else (180, 20)
    with served() as panel:
        # What is made once and stays: pools of threads and of connections to the store, caches.
        _open_and_close(panel, 36, 4)
        before = _quiet(panel, None)
        pages = _open_and_close(panel, streams, pages)
        after = _quiet(panel, before)
    clean = after.listeners == 0 and _no_more(after, before)
    return [
        Row(
            "tabs opened and closed",
            f"{_told(before)} → {_told(after)}",
            "nothing left",
            clean,
            how=f"{streams} event streams and {pages} pages",
        )
    ]


def _open_and_close(panel: Served, streams: int, pages: int) -> int:
    """Returns how many pages it were: none without a Chromium."""
    place = urlsplit(panel.publish(0).url)
    for first in range(0, streams, 9):
        opened = []
        for _ in range(min(9, streams - first)):
            connection = http.client.HTTPConnection(str(place.hostname), place.port)
            connection.request("GET", f"{API}/events")
            answer = connection.getresponse()
            assert answer.readline() == b"event: reload\n"
            opened.append((connection, answer))
        panel.publish(1)
        for connection, answer in opened:
            answer.close()
            connection.close()
    try:
        with browser() as chrome:
            context = new_context(chrome)
            for _ in range(pages):
                page = open_page(context, place.geturl())
                panel.publish(1)
                page.close()
    except NotRun:
        return 0
    return pages


def _quiet(panel: Served, before: Held | None) -> Held:
    """What is held once nobody listens and, where ``before`` is given, as little as then."""
    deadline = time.monotonic() + PATIENCE
    while True:
        held = panel.publish(0)
        calm = held.listeners == 0 and (before is None or _no_more(held, before))
        if calm or time.monotonic() > deadline:
            return held
        time.sleep(0.2)


def _no_more(held: Held, than: Held) -> bool:
    return held.threads <= than.threads and held.files <= than.files


def _told(held: Held) -> str:
    return f"{held.listeners} subscribers, {held.threads} threads, {held.files} files"
