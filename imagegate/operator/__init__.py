"""The operator's web app: the Gradio panel and REST.

`GatePanel` puts the panel into any Gradio app, `mount_gates` serves what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .gate_panel import GatePanel
    from .page_files import mount_gates

__all__ = ["GatePanel", "mount_gates"]


def __getattr__(name: str) -> Any:
    """Gradio takes seconds to import: only who asks for the panel waits for it."""
    if name == "GatePanel":
        from .gate_panel import GatePanel

        return GatePanel
    if name == "mount_gates":
        from .page_files import mount_gates

        return mount_gates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
