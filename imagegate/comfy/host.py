"""The only module that imports ComfyUI. It can itself be imported without ComfyUI."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXTRA_USER = "imagegate_user"
"""The key in a prompt's extra data that says who queued it."""
EXTRA_DATA = ("extra_pnginfo", "preview_method", "comfy_usage_source", EXTRA_USER)
"""The extra data that a prompt needs to go on: what nodes write into files or read as a hidden
input, how previews are made, and who queued it. The rest is not stored: it may hold logins."""

log = logging.getLogger("imagegate")

# -- the prompt that runs


def list_index() -> int:
    """The index of the list item that runs now."""
    context = _context()
    return int(getattr(context, "list_index", None) or 0)


def prompt_id() -> str:
    """The id of the prompt that runs now."""
    context = _context()
    return str(context.prompt_id) if context else ""


def shown_id(unique_id: str | None) -> str:
    """The id by which the front end knows a node: the maker's, if another node made it."""
    if unique_id is None:
        return ""
    try:
        from comfy_execution.progress import get_progress_state
    except ImportError:
        return str(unique_id)
    return str(get_progress_state().dynprompt.get_display_node_id(str(unique_id)))


@dataclass(frozen=True)
class Queued:
    """What a prompt was queued with; see `imagegate.storage.queries.runs.Parked`."""

    extra: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    client: str = ""
    number: str = ""


def queued_with(prompt_id: str, extra_pnginfo: Any) -> Queued:
    """What the prompt that runs now was queued with."""
    try:
        from server import PromptServer

        items, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    except (ImportError, AttributeError):
        items = []
    for item in items:
        if item[1] == prompt_id:
            extra = {key: item[3][key] for key in EXTRA_DATA if key in item[3]}
            client = str(item[3].get("client_id") or "")
            return Queued(extra, tuple(str(target) for target in item[4]), client, str(item[0]))
    return Queued({"extra_pnginfo": extra_pnginfo} if extra_pnginfo else {})


def check_interrupt() -> None:
    """Raise ComfyUI's interrupt if somebody has cancelled the prompt. This lowers the flag."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def interrupt() -> None:
    """Cancel the prompt that runs."""
    from comfy.model_management import interrupt_current_processing

    interrupt_current_processing(True)


def interrupted() -> BaseException:
    """ComfyUI's interrupt."""
    from comfy.model_management import InterruptProcessingException

    error: BaseException = InterruptProcessingException()
    return error


# -- values that block


def blocker() -> Any:
    """A value that keeps whatever receives it from running."""
    from comfy_execution.graph import ExecutionBlocker

    return ExecutionBlocker(None)


def is_blocker(value: object) -> bool:
    """Whether a value keeps whatever receives it from running."""
    graph = sys.modules.get("comfy_execution.graph")  # before it is imported there are no blockers
    return graph is not None and isinstance(value, graph.ExecutionBlocker)


# -- nodes


def node_classes() -> list[str]:
    """The classes of all nodes that this ComfyUI has."""
    import nodes

    return list(nodes.NODE_CLASS_MAPPINGS)


def is_output(class_type: str) -> bool:
    """Whether nodes of this class are outputs."""
    import nodes

    # A class that is gone counts as one: ComfyUI then refuses the prompt, and says why.
    known = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    return known is None or getattr(known, "OUTPUT_NODE", False) is True


def lists_of(class_type: str) -> tuple[bool, bool]:
    """Whether nodes of a class take whole lists, and make lists; neither if it is not known."""
    try:
        import nodes

        known = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        takes = bool(getattr(known, "INPUT_IS_LIST", False))
        makes = any(getattr(known, "OUTPUT_IS_LIST", None) or ())
    except ImportError:
        return False, False
    except Exception:  # a node of another pack whose schema fails: ComfyUI cannot run it either
        log.debug("node class %r does not say what it does with lists", class_type, exc_info=True)
        return False, False
    return takes, makes


def shown_name(class_type: str) -> str:
    """The front end's name for a class of nodes."""
    try:
        import nodes
    except ImportError:
        return class_type
    return str(nodes.NODE_DISPLAY_NAME_MAPPINGS.get(class_type) or class_type)


# -- the server


def user_folder() -> Path:
    """The folder in which packs keep what belongs to the user of this ComfyUI."""
    import folder_paths

    return Path(folder_paths.get_user_directory())


def own_port() -> int | None:
    """The port that ComfyUI listens on, once it is known."""
    from server import PromptServer

    port = getattr(PromptServer.instance, "port", None)
    return int(port) if port else None


def speaks_https() -> bool:
    """Whether ComfyUI's own server speaks HTTPS."""
    from comfy.cli_args import args

    return bool(args.tls_keyfile and args.tls_certfile)


def multi_user() -> bool:
    """Whether this ComfyUI has several users."""
    try:
        from comfy.cli_args import args
    except ImportError:  # without ComfyUI
        return False
    return bool(getattr(args, "multi_user", False))


def _context() -> Any:
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None
    return get_executing_context()
