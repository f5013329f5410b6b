"""A real ComfyUI, as the live tests see it: over HTTP, and by the files its nodes write."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Prompt = dict[str, dict[str, Any]]


def until(probe: Callable[[], T | None], what: str, within: float = 20.0) -> T:
    """What ``probe`` returns, as soon as it returns something; an error after ``within`` s."""
    deadline = time.monotonic() + within
    while True:
        if found := probe():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"within {within} s there was no {what}")
        time.sleep(0.02)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API prompt."""
    return {"class_type": kind, "inputs": inputs}


def noise(seed: int = 1, **sizes: int) -> dict[str, Any]:
    """A source of our own, see ``nodes``."""
    numbers = {"width": 64, "height": 48, "batch": 1, "channels": 3, **sizes}
    return node("LiveNoise", seed=seed, **numbers)


def sink(name: str, image: list[Any] | None = None, mask: list[Any] | None = None) -> Any:
    """Records what arrives as ``NAME.N.npy``."""
    return node("LiveSink", name=name, **({"image": image} if image else {"mask": mask}))


def gated(name: str, source: dict[str, Any] | None = None, **gate: Any) -> Prompt:
    """Source -> gate -> a sink on the mask and on each of two routes, and one on the source."""
    gate = {"routes": 2, "labels": "keep, fix", **gate}
    return {
        "1": source or noise(),
        "2": node("ImageGate", image=["1", 0], **gate),
        "3": sink(f"{name}-keep", ["2", 1]),
        "4": sink(f"{name}-fix", ["2", 2]),
        "5": sink(f"{name}-mask", mask=["2", 0]),
        "6": sink(f"{name}-source", ["1", 0]),
    }


@dataclass(frozen=True)
class Run:
    """How a prompt ended. ``error`` is empty unless it failed."""

    events: list[str]
    outputs: dict[str, Any]
    error: str

    @property
    def interrupted(self) -> bool:
        """As a cancelled prompt ends: no error, so no dialog and no traceback."""
        return "execution_interrupted" in self.events and "execution_error" not in self.events


class Comfy:
    """One running ComfyUI.

    Args:
        started_with: the modules it had imported when it was ready for its first page.
    """

    def __init__(
        self,
        url: str,
        base: Path,
        log: Path,
        started_with: set[str],
        process: subprocess.Popen[bytes],
    ) -> None:
        self.process = process
        self.url = url
        self.base = base
        self.log = log
        self.started_with = started_with
        self.http = httpx.Client(base_url=url, timeout=30)

    @property
    def version(self) -> str:
        """Of ComfyUI itself."""
        return str(self.http.get("/system_stats").json()["system"]["comfyui_version"])

    def panel_runs(self) -> bool:
        """Whether the panel answers; asking starts it."""
        return self.http.get("/imagegate/api/gates").status_code == 200

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None = None) -> str:
        """Queue an API prompt, with the workflow that it was made from; returns its id."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        answer = self.http.post("/prompt", json={"prompt": prompt, "extra_data": extra})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def finished(self, prompt_id: str, within: float = 20.0) -> Run:
        """Wait for the end of a prompt."""
        record = until(
            lambda: self.http.get(f"/history/{prompt_id}").json().get(prompt_id),
            f"end of prompt {prompt_id}",
            within,
        )
        messages = record["status"]["messages"]
        errors = [said["exception_message"] for event, said in messages if "error" in event]
        return Run([event for event, _ in messages], record["outputs"], "".join(errors))

    def gates(self, prompt_id: str | None = None) -> list[dict[str, Any]]:
        """The gates that wait now, of one prompt or of all."""
        answer = self.http.get("/imagegate/api/gates?limit=500")
        assert answer.status_code == 200, answer.text
        gates = answer.json()["gates"]
        return [gate for gate in gates if prompt_id in (None, gate["prompt_id"])]

    def waiting(self, prompt_id: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until exactly ``count`` gates of a prompt wait."""

        def probe() -> list[dict[str, Any]] | None:
            gates = self.gates(prompt_id)
            return gates if len(gates) == count else None

        return until(probe, f"{count} gates of prompt {prompt_id}")

    def gate(self, gate_id: str) -> dict[str, Any]:
        """One gate as it is now."""
        answer = self.http.get(f"/imagegate/api/gates/{gate_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def decide(self, gate: dict[str, Any], route: int | str) -> httpx.Response:
        """Click a route."""
        return self.http.post(f"/imagegate/api/gates/{gate['id']}/decision", json={"route": route})

    def stop(self, gate: dict[str, Any]) -> httpx.Response:
        """Click Stop."""
        return self.http.post(f"/imagegate/api/gates/{gate['id']}/stop", json={})

    def interrupt(self) -> httpx.Response:
        """Click ComfyUI's own cancel."""
        return self.http.post("/interrupt", json={})

    def sunk(self, name: str) -> list[NDArray[np.float32]]:
        """All a sink got, in its order; empty if it did not run."""
        files = (self.output(f"{name}.{number}.npy") for number in range(1000))
        return [np.load(file) for file in iter(lambda: next(files), None) if file.exists()]

    def output(self, name: str) -> Path:
        """A file in its output folder."""
        return self.base / "output" / name

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def state(self, gate: dict[str, Any], wanted: str, within: float = 20.0) -> dict[str, Any]:
        """Wait until a gate is in a state; returns it as it is then."""

        def probe() -> dict[str, Any] | None:
            found = self.gate(gate["id"])
            return found if found["state"] == wanted else None

        return until(probe, f"state {wanted} of gate {gate['id']}", within)

    def idle(self) -> bool:
        """Whether nothing is queued and nothing runs."""
        queue = self.http.get("/queue").json()
        return not queue["queue_running"] and not queue["queue_pending"]

    def made(self) -> list[str]:
        """What the sources have made, in order, each time they ran."""
        log = self.output("made.log")
        return log.read_text().split() if log.exists() else []

    def settle(self) -> None:
        """Leave nothing queued, running or waiting."""
        self.http.post("/queue", json={"clear": True})

        def quiet() -> bool:
            if self.idle():
                return True
            self.interrupt()
            return False

        until(quiet, "end of what was running")
        for gate in self.gates():
            self.stop(gate)  # what is parked waits for the next test, too
