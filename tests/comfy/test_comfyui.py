"""What is asked of ComfyUI, against a small server that answers as it does."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from imagegate.comfy import host as comfyui
from imagegate.comfy.parked.queue import ComfyQueue, panel_address
from imagegate.comfy.parked.resume import End, PromptRefused


class Prompts:
    """ComfyUI's prompt queue: items as it holds them, the history of those that ended."""

    def __init__(self) -> None:
        self.running: list[Any] = []
        self.queued: list[Any] = []
        self.history: dict[str, Any] = {}

    def get_current_queue_volatile(self) -> tuple[list[Any], list[Any]]:
        return self.running, self.queued

    def get_history(self, prompt_id: str, map_function: Any) -> dict[str, Any]:
        found = self.history.get(prompt_id)
        return {} if found is None else {prompt_id: map_function(found)}

    def delete_queue_item(self, matches: Any) -> bool:
        kept = [item for item in self.queued if not matches(item)]
        removed, self.queued = len(kept) < len(self.queued), kept
        return removed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A ComfyUI server; ``answer`` is (status, body) of the next ``POST /prompt``."""
    state = SimpleNamespace(answer=(200, {}), asked=[], prompt_queue=Prompts())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append((self.path, json.loads(body)))
            status, answer = state.answer
            sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.address, state.port = "0.0.0.0", http.server_port
    modules: dict[str, dict[str, Any]] = {
        "comfy": {}, "nodes": {"NODE_CLASS_MAPPINGS": {}},
        "comfy.cli_args": {"args": SimpleNamespace(tls_keyfile=None, tls_certfile=None)},
        "server": {"PromptServer": SimpleNamespace(instance=state)},
    }  # fmt: skip
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # of no concern to a call to oneself
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_prompt_is_submitted(server: Any) -> None:
    """What is to be queued reaches ComfyUI's own call, past any proxy."""
    queue = ComfyQueue(server)
    server.answer = (200, {"prompt_id": "x", "number": 1, "node_errors": {}})
    assert queue.ready
    assert queue.submit({"prompt": {"1": {}}, "front": True}) == ""
    assert server.asked == [("/prompt", {"prompt": {"1": {}}, "front": True})]


def test_it_is_not_ready_before_it_listens() -> None:
    """A ComfyUI that has no port yet takes no prompt."""
    assert not ComfyQueue(SimpleNamespace()).ready


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            {
                "error": {"message": "Prompt outputs failed validation", "details": ""},
                "node_errors": {
                    "4": {
                        "class_type": "Loader",
                        "errors": [{"message": "Value not in list", "details": "ckpt: 'gone'"}],
                    }
                },
            },
            "Prompt outputs failed validation; Loader 4: Value not in list: ckpt: 'gone'",
        ),
        (400, {"error": {"message": "Node 'X' not found."}}, "Node 'X' not found."),
        (413, b"too large", "ComfyUI said 413 too large"),
        (500, b"", "ComfyUI said 500"),
        (401, {}, "ComfyUI said 401"),
        (200, b"<html>log in</html>", "is a login in front of it?"),
    ],
)
def test_a_refusal_is_in_comfyuis_own_words(server: Any, status: int, body: Any, said: str) -> None:
    """Whatever ComfyUI says against a prompt is what a person gets to read."""
    server.answer = (status, body)
    with pytest.raises(PromptRefused) as refused:
        ComfyQueue(server).submit({})
    assert str(refused.value).endswith(said)


def test_a_comfyui_that_does_not_listen(server: Any) -> None:
    """A refused connection is certain: nothing was queued, and that is said."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server.port = taken.getsockname()[1]
    with pytest.raises(PromptRefused, match="does not listen at http://127"):
        ComfyQueue(server).submit({})


def test_outputs_that_would_not_run_are_told(server: Any) -> None:
    """A prompt that is taken only in part says which part was not."""
    errors = {"4": {"class_type": "Save", "errors": [{"message": "bad", "details": "x"}]}}
    server.answer = (200, {"prompt_id": "x", "node_errors": errors})
    assert ComfyQueue(server).submit({}) == "Save 4: bad: x"


def test_how_a_prompt_ended(server: Any) -> None:
    """Queued or running: not yet; else how ComfyUI's history says; or it was removed."""
    queue, prompts = ComfyQueue(server), server.prompt_queue
    prompts.running, prompts.queued = [(0, "a", {}, {}, [])], [(1, "b", {}, {}, [], {})]
    assert queue.ended("a") is queue.ended("b") is None
    assert queue.remove("b")
    assert not queue.remove("b")
    assert queue.ended("b") == End("it was removed from ComfyUI's queue", gone=True)
    error = {"node_type": "KSampler", "exception_message": "out of memory\n"}
    for status, end in [
        ({"completed": True, "messages": []}, End()),
        (None, End()),
        (
            {"completed": False, "messages": [["execution_error", error]]},
            End("KSampler: out of memory"),
        ),
        (  # as after a cycle: the flag is that of the prompt before
            {"completed": True, "messages": [["execution_error", error]]},
            End("KSampler: out of memory"),
        ),
        (
            {"completed": False, "messages": [["execution_interrupted", {}]]},
            End("it was cancelled in ComfyUI", interrupted=True),
        ),
        ({"completed": False, "messages": []}, End("ComfyUI did not finish it")),
    ]:
        prompts.history["c"] = {"status": status}
        assert queue.ended("c") == end


def test_what_a_prompt_was_queued_with(server: Any) -> None:
    """What going on needs of its extra data, the outputs it was queued for, and its page."""
    extra = {
        "client_id": "page", "extra_pnginfo": {"workflow": {}}, "auth_token_comfy_org": "secret",
        "preview_method": "none", "other_packs_login": "secret",
        "api_key_comfy_org": "secret", "create_time": 5,
    }  # fmt: skip
    server.prompt_queue.running = [(0, "other", {}, {}, []), (0, "p", {}, extra, ["4", "7"])]
    found = comfyui.queued_with("p", None)
    assert found.extra == {"extra_pnginfo": {"workflow": {}}, "preview_method": "none"}
    assert (found.targets, found.client, found.number) == (("4", "7"), "page", "0")
    assert extra["client_id"] == "page"  # ComfyUI's own is left as it is
    unknown = comfyui.queued_with("gone", {"workflow": {"id": 1}})
    assert unknown.extra == {"extra_pnginfo": {"workflow": {"id": 1}}}


def test_outputs_and_classes(server: Any) -> None:
    """Which classes there are, and which are outputs, is what ComfyUI has loaded."""
    mappings = sys.modules["nodes"].NODE_CLASS_MAPPINGS
    mappings |= {"Save": type("Save", (), {"OUTPUT_NODE": True}), "Load": type("Load", (), {})}
    queue = ComfyQueue(server)
    assert comfyui.node_classes() == ["Save", "Load"]
    # What is gone is asked for, so that ComfyUI refuses the prompt and says why.
    assert [queue.is_output(name) for name in ("Save", "Load", "Gone")] == [True, False, True]


@pytest.mark.parametrize(
    ("listens", "called"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("studio.example", "studio.example"),
        ("fd00::7", "[fd00::7]"),
        ("0.0.0.0", "192.0.2.7"),
        ("::", "192.0.2.7"),
        ("", "192.0.2.7"),
    ],
)
def test_where_the_panel_is(
    server: Any, monkeypatch: pytest.MonkeyPatch, listens: str, called: str
) -> None:
    """The panel's address is that on which ComfyUI listens; where that is all of the machine's
    addresses, the one it has in its network.
    """
    monkeypatch.setattr("imagegate.comfy.parked.queue.address_in_network", lambda: "192.0.2.7")
    server.address = listens
    assert panel_address(server) == f"http://{called}:{server.port}/imagegate/"


def test_a_machine_in_no_network(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any network the machine goes by its name."""

    class NoNetwork(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError("network is unreachable")

    server.address = "0.0.0.0"
    assert socket.gethostname() not in panel_address(server)
    monkeypatch.setattr(socket, "socket", NoNetwork)
    assert panel_address(server) == f"http://{socket.gethostname()}:{server.port}/imagegate/"
