"""A small, honest stand-in for ComfyUI: what the gate meets when a prompt runs.

Written from ComfyUI's observed behaviour, not from its code. It keeps what can go wrong there:
throwing on an interrupt lowers the flag, so that one waiter sees it; tasks of a node are all waited
for, even when one failed; what is still running when a prompt ends is cancelled; a synchronous node
keeps the whole loop busy; results are cached by a signature in which a NaN equals only itself;
everything runs in torch's inference mode. Models, previews and the web are left out.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.stored import PATIENCE

Prompt = dict[str, dict[str, Any]]


class ExecutionBlocker:
    """A value that keeps whatever receives it from running."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class Context(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


class DynamicPrompt:
    """The prompt as sent, and the nodes that its nodes made while it ran."""

    def __init__(self, original: Prompt) -> None:
        self.original_prompt = original
        self._made: Prompt = {}
        self._shown_as: dict[str, str] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        return self._made[node_id] if node_id in self._made else self.original_prompt[node_id]

    def add_made(self, node_id: str, node: dict[str, Any], parent: str) -> None:
        self._made[node_id] = node
        self._shown_as[node_id] = parent

    def get_display_node_id(self, node_id: str) -> str:
        while node_id in self._shown_as:
            node_id = self._shown_as[node_id]
        return node_id


class Comfy:
    """ComfyUI's modules, as far as the gate imports them.

    Args:
        interrupt_base: what an interrupt derives from: `Exception` before 0.20, then
            `BaseException`.
    """

    def __init__(self, interrupt_base: type[BaseException] = BaseException) -> None:
        self.Interrupted: type[BaseException] = type(
            "InterruptProcessingException", (interrupt_base,), {}
        )
        self.context: contextvars.ContextVar[Context | None] = contextvars.ContextVar(
            "context", default=None
        )
        self._lock = threading.RLock()
        self._flag = False
        self.dynprompt = DynamicPrompt({})
        self.classes: dict[str, type] = {}

    # -- comfy.model_management

    def interrupt(self, value: bool = True) -> None:
        """What ComfyUI's cancel button and ``/interrupt`` do."""
        with self._lock:
            self._flag = value

    @property
    def interrupted(self) -> bool:
        with self._lock:
            return self._flag

    def throw_if_interrupted(self) -> None:
        with self._lock:
            if self._flag:
                self._flag = False
                raise self.Interrupted

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make ``import comfy...`` find this."""
        contents: dict[str, dict[str, Any]] = {
            "comfy": {},
            "comfy.model_management": {
                "InterruptProcessingException": self.Interrupted,
                "interrupt_current_processing": self.interrupt,
                "processing_interrupted": lambda: self.interrupted,
                "throw_exception_if_processing_interrupted": self.throw_if_interrupted,
            },
            "comfy_execution": {},
            "comfy_execution.graph": {"ExecutionBlocker": ExecutionBlocker},
            "comfy_execution.utils": {"get_executing_context": self.context.get},
            "comfy_execution.progress": {"get_progress_state": lambda: self},
            "nodes": {"NODE_CLASS_MAPPINGS": self.classes, "NODE_DISPLAY_NAME_MAPPINGS": {}},
        }
        for name, content in contents.items():
            module = ModuleType(name)
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)


@dataclass
class Result:
    """How a prompt ended: success, interrupted, error or invalid.

    ``ran`` lists nodes in the order they finished; ``outputs`` maps each to its slots, every slot
    a list of values.
    """

    status: str = "success"
    node_id: str = ""
    error: BaseException | None = None
    ran: list[str] = field(default_factory=list)
    outputs: dict[str, list[list[Any]]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)

    def value(self, node_id: str, slot: int = 0, item: int = 0) -> Any:
        return self.outputs[node_id][slot][item]


class Run:
    """A prompt that runs in a thread of its own, as ComfyUI's worker runs it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._result: Result | None = None
        self._failure: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name="prompt-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as failure:
            self._failure = failure

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> Result:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the prompt did not end within {timeout} s"
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        return self._result


class Executor:
    """Runs prompts of API format, one after the other, keeping a cache between them."""

    def __init__(self, comfy: Comfy, nodes: dict[str, type]) -> None:
        self.comfy = comfy
        self.nodes = nodes
        comfy.classes.update(nodes)
        self._cache: dict[Any, list[list[Any]]] = {}
        self._objects: dict[tuple[str, str], Any] = {}
        self._count = 0

    def start(self, prompt: Prompt, outputs: list[str], **extra: Any) -> Run:
        """Validate, then run in the background until ``outputs`` are made."""
        self._count += 1
        prompt_id = f"prompt-{self._count}"
        return Run(lambda: self.execute(prompt, outputs, prompt_id, extra))

    def execute(
        self, prompt: Prompt, outputs: list[str], prompt_id: str, extra: dict[str, Any]
    ) -> Result:
        run = _Prompt(self, prompt, prompt_id, extra)
        if problems := asyncio.run(run.validate()):
            return Result("invalid", error=ValueError("; ".join(problems)))
        return asyncio.run(run.execute(outputs))  # cancels whatever is left of it


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class _Prompt:
    """One prompt while it runs."""

    def __init__(
        self, executor: Executor, prompt: Prompt, prompt_id: str, extra: dict[str, Any]
    ) -> None:
        self.executor = executor
        self.comfy = executor.comfy
        self.id = prompt_id
        self.extra = extra
        self.dynprompt = DynamicPrompt(prompt)
        self.result = Result()
        self.done: dict[str, list[list[Any]]] = {}
        self.needs: dict[str, set[str]] = {}  # of each node not done yet
        self.busy: dict[str, list[Any]] = {}  # nodes with tasks that run
        self.halfway: dict[str, list[Any]] = {}  # nodes to go on with, and their results so far
        self.changed: dict[str, Any] = {}
        self.background: set[asyncio.Task[None]] = set()
        self.woken: asyncio.Event

    def cls(self, node_id: str) -> Any:
        return self.executor.nodes[self.dynprompt.get_node(node_id)["class_type"]]

    # -- before it runs

    async def validate(self) -> list[str]:
        problems: list[str] = []
        for node_id, node in self.dynprompt.original_prompt.items():
            cls, inputs = self.cls(node_id), node["inputs"]
            check = getattr(cls, "VALIDATE_INPUTS", None)
            own = inspect.getfullargspec(check).args if check else []
            for category, specs in cls.INPUT_TYPES().items():
                for name, spec in specs.items() if category != "hidden" else ():
                    if name not in inputs:
                        if category == "required":
                            problems.append(f"{node_id}: required input {name} is missing")
                        continue
                    if is_link(inputs[name]):
                        continue
                    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
                    convert = {"INT": int, "FLOAT": float, "STRING": str}.get(str(kind))
                    if convert is not None:
                        inputs[name] = convert(inputs[name])
                    if name in own:  # a node that looks at it itself is trusted with it
                        continue
                    if "min" in options and inputs[name] < options["min"]:
                        problems.append(f"{node_id}: {name} is too small")
                    if "max" in options and inputs[name] > options["max"]:
                        problems.append(f"{node_id}: {name} is too big")
                    if isinstance(kind, list) and inputs[name] not in kind:
                        problems.append(f"{node_id}: {name} is not in the list")
            if own:
                given = self.constants(node_id)
                given = {name: value for name, value in given.items() if name in own}
                said = await self.map(node_id, cls, given, "VALIDATE_INPUTS")
                problems += [f"{node_id}: {problem}" for problem in said if problem is not True]
        return problems

    def constants(self, node_id: str) -> dict[str, list[Any]]:
        """The inputs, None for those that come from other nodes."""
        inputs = self.dynprompt.get_node(node_id)["inputs"]
        return {name: [None if is_link(v) else v] for name, v in inputs.items()}

    # -- running

    async def execute(self, outputs: list[str]) -> Result:
        self.comfy.interrupt(False)
        self.comfy.dynprompt = self.dynprompt
        self.woken = asyncio.Event()
        with torch.inference_mode():
            for node_id in outputs:
                await self.need(node_id)
            while self.needs:
                node_id = await self.next_ready()
                try:
                    await self.step(node_id)
                except self.comfy.Interrupted as error:
                    return self.end("interrupted", node_id, error)
                except Exception as error:
                    return self.end("error", node_id, error)
        self.result.outputs = self.done
        return self.result

    def end(self, status: str, node_id: str, error: BaseException) -> Result:
        self.result.status, self.result.node_id, self.result.error = status, node_id, error
        self.result.outputs = self.done
        return self.result

    async def next_ready(self) -> str:
        while True:
            ready = [
                n for n in self.needs if n not in self.busy and self.needs[n] <= set(self.done)
            ]
            if ready:
                # Outputs and async nodes first, so that more goes on at the same time.
                return next((n for n in ready if self.first(n)), ready[0])
            assert self.busy, f"a cycle in {self.needs}"
            await self.woken.wait()
            self.woken.clear()
            for n in [n for n, results in self.busy.items() if _all_done(results)]:
                self.halfway[n] = self.busy.pop(n)

    def first(self, node_id: str) -> bool:
        cls = self.cls(node_id)
        return bool(
            getattr(cls, "OUTPUT_NODE", False)
            or inspect.iscoroutinefunction(getattr(cls, cls.FUNCTION))
        )

    async def need(self, node_id: str) -> None:
        """Have this node run, and what it hangs on, except behind lazy inputs."""
        if node_id in self.needs or node_id in self.done:
            return
        cached = self.executor._cache.get(await self.signature(node_id))
        if cached is not None:
            self.result.cached.append(node_id)
            self.done[node_id] = cached
            return
        self.needs[node_id] = set()
        specs = _specs(self.cls(node_id))
        for name, value in self.dynprompt.get_node(node_id)["inputs"].items():
            if is_link(value) and not specs.get(name, {}).get("lazy"):
                self.needs[node_id].add(value[0])
                await self.need(value[0])

    async def step(self, node_id: str) -> None:
        """Run a node, or go on with it, as far as that goes without waiting."""
        node, cls = self.dynprompt.get_node(node_id), self.cls(node_id)
        asks: Any = cls
        if node_id in self.halfway:
            results = self.halfway.pop(node_id)
            results = [self.links_of(r) if isinstance(r, _Links) else r for r in results]
        else:
            given, missing = self.inputs(node_id)
            key = (node_id, node["class_type"])
            if key not in self.executor._objects:
                self.executor._objects[key] = cls()
            obj = self.executor._objects[key]
            if hasattr(obj, "check_lazy_status"):
                asked = await self.map(node_id, obj, given, "check_lazy_status", interrupt=True)
                wanted = {n for names in asked if isinstance(names, list) for n in names}
                if wanted := {n for n in wanted if n not in given or n in missing}:
                    for name in wanted:
                        source = node["inputs"][name][0]
                        self.needs[node_id].add(source)
                        await self.need(source)
                    return
            results = await self.map(node_id, obj, given, cls.FUNCTION, interrupt=True)
            asks = obj
            if not _all_done(results):
                self.busy[node_id] = results
                self.in_background(self.wait_for_all(results))
                return
        results = [r.result() if isinstance(r, asyncio.Task) else r for r in results]
        if any(isinstance(r, dict) for r in results):
            await self.expand(node_id, results)
            return
        rows = [(r,) * len(cls.RETURN_TYPES) if _blocks(r) else r for r in results]
        self.done[node_id] = _joined(rows, asks)
        del self.needs[node_id]
        self.executor._cache[await self.signature(node_id)] = self.done[node_id]
        if not all(_blocks(r) for r in results):
            self.result.ran.append(node_id)

    async def wait_for_all(self, results: list[Any]) -> None:
        tasks = [r for r in results if isinstance(r, asyncio.Task)]
        await asyncio.gather(*tasks, return_exceptions=True)
        self.woken.set()

    def in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def expand(self, node_id: str, results: list[Any]) -> None:
        """A node made others to do its work: it is done when they are."""
        links: list[Any] = []
        for made in results:
            for new_id, node in made["expand"].items():
                self.dynprompt.add_made(new_id, node, node_id)
            links.append(_Links(made["result"]))
        self.halfway[node_id] = links
        for made in links:
            for value in made.values:
                if is_link(value):
                    self.needs[node_id].add(value[0])
                    await self.need(value[0])

    def links_of(self, made: _Links) -> tuple[Any, ...]:
        return tuple(self.done[v[0]][v[1]][0] if is_link(v) else v for v in made.values)

    def inputs(self, node_id: str) -> tuple[dict[str, list[Any]], set[str]]:
        given: dict[str, list[Any]] = {}
        missing: set[str] = set()
        for name, value in self.dynprompt.get_node(node_id)["inputs"].items():
            if not is_link(value):
                given[name] = [value]
            elif value[0] in self.done and value[0] in self.needs[node_id]:
                given[name] = self.done[value[0]][value[1]]
            else:
                given[name] = [None]
                missing.add(name)
        known = {
            "UNIQUE_ID": node_id,
            "PROMPT": self.dynprompt.original_prompt,
            "EXTRA_PNGINFO": self.extra.get("extra_pnginfo"),
        }
        for name, kind in self.cls(node_id).INPUT_TYPES().get("hidden", {}).items():
            if isinstance(kind, str):
                given[name] = [known[kind]]
        return given, missing

    async def map(
        self,
        node_id: str,
        obj: Any,
        given: dict[str, list[Any]],
        name: str,
        interrupt: bool = False,
    ) -> list[Any]:
        """Call a function once an item of the longest list; async ones become tasks.

        A node that takes whole lists is called once with all of them.
        """
        function, results = getattr(obj, name), []
        input_data_all = given  # where the gate finds it, as in ComfyUI
        whole = getattr(obj, "INPUT_IS_LIST", False)
        count = max((len(values) for values in input_data_all.values()), default=1)
        for i in range(1 if whole else count):
            if interrupt:
                self.comfy.throw_if_interrupted()
            item = {key: values[min(i, len(values) - 1)] for key, values in given.items()}
            blocker = next((value for value in item.values() if _blocks(value)), None)
            if whole:
                item = dict(given)
                every = (value for values in given.values() for value in values)
                blocker = next((value for value in every if _blocks(value)), None)
            if blocker is not None:
                results.append(blocker)
                continue
            token = self.comfy.context.set(Context(self.id, node_id, i))
            try:
                if not inspect.iscoroutinefunction(function):
                    results.append(function(**item))
                    continue
                task = asyncio.create_task(_called(function, item))
            finally:
                self.comfy.context.reset(token)
            await asyncio.sleep(0)
            results.append(task.result() if task.done() else task)
        return results

    # -- the cache

    async def signature(self, node_id: str) -> Any:
        node = self.dynprompt.get_node(node_id)
        cls = self.cls(node_id)
        if node_id not in self.changed:
            self.changed[node_id] = None
            if hasattr(cls, "IS_CHANGED"):
                given = self.constants(node_id)
                self.changed[node_id] = tuple(await self.map(node_id, cls, given, "IS_CHANGED"))
        by_id = "UNIQUE_ID" in cls.INPUT_TYPES().get("hidden", {}).values()
        parts: list[Any] = [node["class_type"], self.changed[node_id], node_id if by_id else None]
        for name, value in sorted(node["inputs"].items()):
            if is_link(value):
                parts.append((name, await self.signature(value[0]), value[1]))
            else:
                parts.append((name, value))
        return tuple(parts)


def _joined(results: list[Any], asks: Any) -> list[list[Any]]:
    """The slots of a node, of what its calls have returned, one after the other.

    Args:
        asks: who says which outputs are lists: the node, or its class where it was waited for.
    """
    slots: list[list[Any]] = []
    lists = [False] * len(results[0])
    if hasattr(asks, "OUTPUT_IS_LIST"):
        lists = asks.OUTPUT_IS_LIST
    for slot, is_list in enumerate(lists):
        slots.append([])
        for row in results:
            if is_list and not _blocks(row[slot]):
                slots[-1].extend(row[slot])
            else:
                slots[-1].append(row[slot])
    return slots


@dataclass
class _Links:
    values: tuple[Any, ...]


async def _called(function: Callable[..., Awaitable[Any]], item: dict[str, Any]) -> Any:
    return await function(**item)


def _blocks(value: Any) -> bool:
    return isinstance(value, ExecutionBlocker)


def _all_done(results: list[Any]) -> bool:
    return all(r.done() for r in results if isinstance(r, asyncio.Task))


def _specs(cls: Any) -> dict[str, dict[str, Any]]:
    kinds = cls.INPUT_TYPES()
    both = {**kinds.get("required", {}), **kinds.get("optional", {})}
    return {name: spec[1] if len(spec) > 1 else {} for name, spec in both.items()}
