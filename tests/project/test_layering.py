"""Who imports whom, seen in a fresh interpreter; and that importing starts nothing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.import_graph import MODULES, PACKAGE, PAGE, arrows, imports_of, room, with_graph

ROOT = Path(__file__).parents[2]
HEAVY = {
    "torch", "gradio", "comfy", "comfy_execution", "nodes", "server", "fastapi", "uvicorn",
    "fsspec", "apprise",
}  # fmt: skip
ARROWS: dict[str, set[str]] = {
    "text": set(),
    "core": {"text"},
    "pictures": {"core", "text"},
    "storage": {"core", "pictures", "text"},
    "gate_bus": {"core", "storage"},
    "http": {"core", "pictures", "storage", "text"},
    "notify": {"core", "gate_bus", "pictures", "storage", "text"},
    "folder": {"core", "gate_bus", "pictures", "storage", "text"},
    "share": {"core", "http", "pictures", "storage", "text"},
    "operator": {
        "core", "gate_bus", "http", "pictures", "share", "storage", "text", "__init__",
    },
    "comfy": {
        "core", "gate_bus", "http", "notify", "operator", "pictures", "share", "storage",
        "text",
    },
    "gate": {"comfy"},
    "command": {
        "core", "folder", "gate_bus", "http", "operator", "pictures", "share", "storage",
        "text",
    },
    "__init__": {"text"},
}  # fmt: skip
"""Which rooms (packages, and modules beside them) each room may import from."""

MOST_FILES = 11
"""Files of one folder, its ``__init__`` counted."""


def fresh(code: str) -> Any:
    """What ``code`` puts into ``result``, run in a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json\n{code}\nprint(json.dumps(result))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded(module: str) -> set[str]:
    code = f"import sys, imagegate.{module}\nresult = sorted(sys.modules)"
    return {name.partition(".")[0] for name in fresh(code)}


LIGHT = (
    "core.model",
    "gate_bus",
    "pictures.encode",
    "pictures.place",
    "folder.session",
    "http.access",
    "http.sockets.listener",
    "storage.queries.gates",
    "storage.sql_storage",
    "comfy.parked.resume",
    "notify.notices",
    "share.tunnel",
)


@pytest.mark.processes
@pytest.mark.parametrize("module", LIGHT)
def test_the_core_is_light(module: str) -> None:
    """The core imports neither torch nor gradio, comfy or a web framework's app."""
    assert not loaded(module) & HEAVY


@pytest.mark.processes
def test_the_api_needs_no_torch() -> None:
    """REST imports fastapi, but neither torch nor gradio nor comfy."""
    assert not loaded("operator.rest") & (HEAVY - {"fastapi"})


@pytest.mark.processes
def test_the_node_imports_without_comfyui() -> None:
    """The node imports torch, but nothing of ComfyUI, gradio or the web."""
    assert not loaded("gate") & (HEAVY - {"torch"})


@pytest.mark.processes
@pytest.mark.parametrize(
    "module",
    [
        "core.model", "gate_bus", "storage.memory", "core.loop", "comfy.parked.prompts",
        "comfy.parked.graph", "notify.wording",
    ],
)  # fmt: skip
def test_the_bus_needs_only_python(module: str) -> None:
    """The bus and the records import the standard library only."""
    code = f"import sys\nbefore = set(sys.modules)\nimport imagegate.{module}\n"
    code += "result = sorted(set(sys.modules) - before)"
    names = {name.partition(".")[0] for name in fresh(code)}
    assert names <= set(sys.stdlib_module_names) | {"imagegate"}


def test_imports_form_no_cycle() -> None:
    """No module imports itself by way of others, imports inside functions counted."""
    left = {module: imports_of(module, everywhere=True) for module in MODULES}
    while free := [module for module, wanted in left.items() if not wanted & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"a cycle among {left}"


def test_rooms_import_downwards_only() -> None:
    """Rooms import from the rooms that are named for them, and no room reaches itself again."""
    strange = [(a, b) for a, b in arrows() if room(b) not in ARROWS[room(a)]]
    assert not strange
    left = dict(ARROWS)
    while free := [name for name, wanted in left.items() if not wanted & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"a cycle among {left}"


def test_no_room_is_crowded() -> None:
    """No folder has more than eleven files."""
    for folder in {path.parent for path in MODULES.values()}:
        assert len([path for path in folder.iterdir() if path.is_file()]) <= MOST_FILES, folder


def test_the_map_of_the_code_is_true() -> None:
    """docs/architecture.md names every room and nothing else, in a dozen rows at most."""
    table = re.findall(
        r"^\| `(.+?)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    rooms = [row for row in table if row.startswith("imagegate/")]
    named = {
        part.removeprefix("imagegate/").strip("/") for row in rooms for part in row.split("`, `")
    }
    there = {room(name).removesuffix("/") for name in MODULES if name != "__init__"}
    files = {name for name in there if (PACKAGE / f"{name}.py").exists()}
    assert named == (there - files) | {f"{name}.py" for name in files} | {"page", "web"}
    assert len(rooms) <= 12


def test_the_drawn_graph_is_true() -> None:
    """docs/architecture.md draws the imports as they are: scripts/import_graph.py --write."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_graph(page) == page


def test_the_files_that_the_architecture_names_are_there() -> None:
    """Every file and folder that docs/architecture.md names exists."""
    names = re.findall(r"`((?:imagegate|tests|scripts)/[\w/.]*)", PAGE.read_text(encoding="utf-8"))
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_only_the_edges_know_the_frameworks() -> None:
    """Each framework is imported, anywhere in the text, only by the modules at its edge."""
    allowed = {
        "torch": {
            "pictures.tensors",
            "comfy.parked.run",
            "comfy.node",
            "comfy.asking",
            "comfy.outputs",
        },
        "gradio": {
            "operator.gate_panel",
            "operator.mask_editor",
            "operator.panel",
            "share.tunnel",
        },
        "comfy": {"comfy.host"},
        "comfy_execution": {"comfy.host"},
        "server": {"comfy.host"},
        "nodes": {"comfy.host"},
        "folder_paths": {"comfy.host"},
        "execution": {"comfy.host"},
        "aiohttp": {"comfy.port.pack", "comfy.port.users"},
        "sqlalchemy": {
            "storage.sql.database",
            "storage.sql.migrations",
            "storage.sql.postgresql",
            "storage.sql.sqlite_file",
            "storage.sql.tables",
            "storage.queries.gate_lookup",
            "storage.queries.gate_rows",
            "storage.queries.gates",
            "storage.links",
            "storage.queries.notified",
            "storage.open_store",
            "storage.queries.parked",
            "storage.queries.passphrases",
            "storage.queries.runs",
            "storage.queries.workers",
            "text.redact",
        },
        "fsspec": {"pictures.file_systems"},
        "psycopg": {"storage.sql.postgresql"},
        "apprise": {"notify.apprise"},
    }
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert module in allowed.get(top, {module}), f"{module} imports {name}"


def test_nothing_of_the_package_is_imported_by_its_full_name() -> None:
    """All imports within the package are relative: ComfyUI loads it under another name."""
    for path in [ROOT / "__init__.py", *MODULES.values()]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not (node.module or "").startswith("imagegate"), path
            if isinstance(node, ast.Import):
                assert not any(a.name.startswith("imagegate") for a in node.names), path


AS_COMFYUI_DOES = """
import importlib.util, os, socket, sys, threading, types

opened = []
def watch(event, args):
    if event in ("socket.__new__", "socket.bind", "subprocess.Popen"):
        opened.append(event)
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        opened.append(f"open {args[0]}")
sys.dont_write_bytecode = True
if WITH_SERVER:
    from aiohttp import web
    class Instance:
        routes = web.RouteTableDef()
        app = web.Application()
        def send_sync(self, event, data, sid=None): ...
    class PromptServer:
        instance = Instance()
    sys.modules["server"] = types.ModuleType("server")
    sys.modules["server"].PromptServer = PromptServer
import torch  # ComfyUI has it already
threads, before = threading.active_count(), set(sys.modules)
sys.addaudithook(watch)
name = ROOT.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, "__init__.py"))
pack = importlib.util.module_from_spec(spec)
sys.modules[name] = pack
spec.loader.exec_module(pack)
new = sorted(set(sys.modules) - before)
result = {
    "nodes": sorted(pack.NODE_CLASS_MAPPINGS),
    "names": pack.NODE_DISPLAY_NAME_MAPPINGS,
    "web": os.path.isdir(os.path.join(ROOT, pack.WEB_DIRECTORY)),
    "routes": len(PromptServer.instance.routes) if WITH_SERVER else 0,
    "threads": threading.active_count() - threads,
    "opened": opened,
    "new": new,
    "twice": "imagegate" in sys.modules or "imagegate.comfy.node" in sys.modules,
}
"""


@pytest.mark.processes
@pytest.mark.parametrize("with_server", [True, False])
def test_the_pack_as_comfyui_loads_it(with_server: bool) -> None:
    """Loaded as ComfyUI loads packs it registers the node and its routes, and starts nothing: no
    thread, no socket, no file; gradio and the web's frameworks are not even imported.
    """
    head = f"ROOT = {str(ROOT)!r}\nWITH_SERVER = {with_server}\n"
    pack = fresh(head + AS_COMFYUI_DOES)
    assert pack["nodes"] == ["ImageGate", "ImageGateDecisions"]
    assert pack["names"]["ImageGate"] == "Image Gate (Manual Router)"
    assert pack["web"]
    assert (pack["routes"] >= 3) is with_server
    assert (pack["threads"], pack["opened"]) == (0, [])
    new = {name.partition(".")[0] for name in pack["new"]}
    assert not new & {"gradio", "fastapi", "uvicorn", "pydantic", "sqlalchemy", "apprise"}
    assert not pack["twice"], "the package was imported under a second name"


def test_tests_import_the_package_once() -> None:
    """Running the tests imports the package under one name: a test runner that looks at the pack's
    root module registers nothing by it.
    """
    import imagegate.comfy.node

    own = str(PACKAGE / "comfy" / "node.py")
    found = [m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == own]
    assert found == [imagegate.comfy.node], [m.__name__ for m in found]
