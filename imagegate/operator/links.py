"""REST for sharing, at the operator's door only."""

from __future__ import annotations

import io
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from ..core.links import HOUR, Link, May, Reach, UnknownLink, read_scope
from ..http.answers import Nothing, error_of
from ..http.paths import PREFIX
from ..share.share import Share

LONGEST_TEXT = 1000
"""Characters of the longest text that is made a QR code."""


class NewLink(BaseModel):
    """Who gets a link, and what it lets them see and do, for how long."""

    model_config = ConfigDict(extra="forbid")
    name: StrictStr
    may: StrictStr = May.MASK.value
    scope: dict[str, Any] = Field(default_factory=lambda: {"kind": "all"})
    hours: StrictFloat | StrictInt = 24
    passphrase: StrictStr = ""
    once: StrictBool = True
    reach: StrictStr = Reach.INTERNET.value


class Text(BaseModel):
    """What a QR code shall say."""

    model_config = ConfigDict(extra="forbid")
    text: StrictStr = Field(max_length=LONGEST_TEXT, min_length=1)


def add_sharing(app: FastAPI, share: Share) -> None:
    """Add the calls below ``api/links``, and ``api/qr``."""
    app.add_exception_handler(UnknownLink, _explain)

    @app.get(f"{PREFIX}/api/links")
    def links() -> dict[str, Any]:
        """All links, live ones first, and where the approver's door can be reached."""
        return share.to_json()

    @app.post(f"{PREFIX}/api/links", status_code=201)
    def create(new: NewLink) -> dict[str, Any]:
        """Make a link. Its token is told this once: only its hash is kept."""
        return _with_token(
            share,
            *share.create(
                new.name, may=new.may, among=read_scope(new.scope), seconds=new.hours * HOUR,
                passphrase=new.passphrase, once=new.once, reach=new.reach,
            ),
        )  # fmt: skip

    @app.post(f"{PREFIX}/api/links/{{link_id}}/reissue")
    def reissue(link_id: str, _: Nothing) -> dict[str, Any]:
        """A new address for a link; the one before opens nothing any more."""
        return _with_token(share, *share.reissue(link_id))

    @app.post(f"{PREFIX}/api/links/{{link_id}}/revoke")
    def revoke(link_id: str, _: Nothing) -> dict[str, Any]:
        """End a link: all that opened it go dark."""
        return {"link": share.describe(share.revoke(link_id))[0]}

    @app.post(f"{PREFIX}/api/qr")
    def code(wanted: Text) -> Any:
        """A QR code as SVG, black on white, with the margin that readers need."""
        try:
            import segno  # the panel does without, until the requirements are installed again
        except ImportError:
            return error_of("QR codes need segno: pip install -r requirements.txt", 501)
        out = io.BytesIO()
        made = segno.make_qr(wanted.text, error="m")
        made.save(out, kind="svg", scale=4, border=4, dark="#000", light="#fff", xmldecl=False)
        return {"svg": out.getvalue().decode()}


def _with_token(share: Share, link: Link, token: str) -> dict[str, Any]:
    return {"link": share.describe(link)[0], "token": token}


async def _explain(_: Request, error: Exception) -> JSONResponse:
    return error_of(str(error), 404)
