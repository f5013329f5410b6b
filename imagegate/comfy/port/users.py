"""Who a gate belongs to if ComfyUI has several users (``--multi-user``).

ComfyUI's front end names its user in a header of each call, and ComfyUI believes it: this separates
people who trust each other, and protects against nobody else. A prompt itself does not name its
user, so the name is added to what is queued with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ...core.model import MAX_NAME
from ..host import EXTRA_USER

if TYPE_CHECKING:
    from aiohttp import web

HEADER = "comfy-user"

_asking: ContextVar[str] = ContextVar("imagegate_user", default="")


def follow_users(server: Any) -> None:
    """Note with each prompt who queued it. To be called while ComfyUI loads its packs."""
    from aiohttp import web  # not above: the node is imported where there is no ComfyUI, too

    @web.middleware
    async def remember(request: web.Request, handler: Any) -> web.StreamResponse:
        token = _asking.set(user_of(request.headers))
        try:
            answer: web.StreamResponse = await handler(request)
            return answer
        finally:
            _asking.reset(token)

    def mark(queued: dict[str, Any]) -> dict[str, Any]:
        user, extra = _asking.get(), queued.setdefault("extra_data", {})
        if user and isinstance(extra, dict):  # a prompt that goes on has its user already
            extra[EXTRA_USER] = user
        return queued

    server.app.middlewares.append(remember)
    server.add_on_prompt_handler(mark)


def user_of(headers: Mapping[str, str]) -> str:
    """The user that a call names; empty if it names none."""
    return headers.get(HEADER, "")[:MAX_NAME]


def owned(workflow_id: str, user: str) -> str:
    """A workflow's id for one user: two who open the same template each have their own."""
    return f"{workflow_id}@{user}" if user else workflow_id


def is_for(user: str, workflow_id: str) -> bool:
    """Whether a gate belongs to this user, or to nobody, like those that scripts queue."""
    _, at, owner = workflow_id.rpartition("@")
    return not at or owner == user
