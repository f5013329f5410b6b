"""What ComfyUI makes of the pack when it loads it."""

from __future__ import annotations

import re

import numpy as np

from tests.live.comfyui import Comfy, node, noise, sink


def test_the_node_is_listed_where_people_look_for_it(comfy: Comfy) -> None:
    """The node stands under "Datasete Gates" with all eleven outputs."""
    listed = comfy.http.get("/object_info/ImageGate").json()["ImageGate"]
    assert listed["display_name"] == "Image Gate (Manual Router)"
    assert listed["category"] == "Datasete Gates"
    assert listed["output"] == ["MASK"] + ["IMAGE"] * 10
    assert listed["output_name"] == ["mask"] + [f"route_{i}" for i in range(1, 11)]
    assert list(listed["input"]["required"]) == ["image", "routes"]


def test_importing_the_pack_costs_next_to_nothing(comfy: Comfy) -> None:
    """ComfyUI reports an import time that rounds to 0.0 s, that is under 50 ms."""
    times = re.findall(
        r"([\d.]+) seconds( \(IMPORT FAILED\))?: .*custom_nodes/imagegate", comfy.said()
    )
    assert times == [("0.0", "")]


def test_nothing_heavy_is_imported_at_start(comfy: Comfy) -> None:
    """ComfyUI is up with the node in it, and neither gradio nor a web server was imported."""
    own = {name for name in comfy.started_with if name.endswith("imagegate.comfy.node")}
    assert own, "the node is loaded"
    assert comfy.started_with.isdisjoint({"gradio", "fastapi", "uvicorn"})


def test_the_core_exists_once(comfy: Comfy) -> None:
    """Relative imports only: there is one module of each name, so one bus in the process."""
    for part in ("comfy.node", "gate_bus", "operator.service"):
        loaded = {name for name in comfy.started_with if name.endswith(f"imagegate.{part}")}
        assert len(loaded) == 1, loaded


def test_the_front_end_gets_its_files(comfy: Comfy) -> None:
    """ComfyUI serves the script, the help page, the example workflow and the translations."""
    assert "/extensions/imagegate/image_gate.js" in comfy.http.get("/extensions").json()
    help_page = comfy.http.get("/extensions/imagegate/docs/ImageGate.md")
    assert help_page.text.startswith("# Image Gate")
    examples = comfy.http.get("/workflow_templates").json()["imagegate"]
    assert "keep_or_fix" in examples
    for language, texts in comfy.http.get("/i18n").json().items():
        ours = texts["nodeDefs"]["ImageGate"]
        assert len(ours["outputs"]) == 11, language
        assert {"image", "routes", "labels"} <= set(ours["inputs"]), language


def test_image_and_routes_are_enough(comfy: Comfy, name: str) -> None:
    """A prompt that gives only `image` and `routes` runs, its routes named by their numbers."""
    gate = node("ImageGate", image=["1", 0], routes=3)
    run = comfy.queue({"1": noise(), "2": gate, "3": sink(name, ["2", 3])})
    [waiting] = comfy.waiting(run)
    assert waiting["labels"] == ["1", "2", "3"]
    assert comfy.decide(waiting, 3).json() == {"outcome": "won"}
    assert "execution_success" in comfy.finished(run).events
    assert [image.dtype for image in comfy.sunk(name)] == [np.float32]


def test_without_gradio_the_node_is_there(comfyui_without_gradio: Comfy) -> None:
    """Requirements not installed: ComfyUI has the node, whose error says what to install."""
    comfy = comfyui_without_gradio
    assert "IMPORT FAILED" not in comfy.said()
    assert comfy.http.get("/imagegate/notices").json() == {"waiting": []}
    gate = node("ImageGate", image=["1", 0], routes=2)
    run = comfy.queue({"1": noise(), "2": gate, "3": sink("never", ["2", 1])})
    ended = comfy.finished(run)
    assert "pip install" in ended.error
    assert "gradio" in ended.error
    page = comfy.http.get("/imagegate/")
    assert page.status_code == 503
    assert "pip install" in page.text


def test_a_bad_number_is_refused_before_anything_runs(comfy: Comfy, name: str) -> None:
    """Eleven routes do not pass ComfyUI's validation."""
    gate = node("ImageGate", image=["1", 0], routes=11)
    prompt = {"1": noise(), "2": gate, "3": sink(name, ["2", 1])}
    answer = comfy.http.post("/prompt", json={"prompt": prompt})
    assert answer.status_code == 400
    assert "routes" in answer.text
