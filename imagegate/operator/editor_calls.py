"""What the mask editor asks of Gradio, looked at before Gradio sees it.

Gradio answers what it does not expect with a traceback in the log, or in the middle of a stream.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import unquote

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..http.access import MAX_BODY, Refused
from ..http.answers import error_of
from ..http.paths import PREFIX
from .uploads import AT_ONCE, UNSEEN, Uploads

MOST_JSON = 512 * 2**10
LONGEST_SIDE = 4096
"""Pixels of an image that an editor may send; it paints on at most 1536."""

_FILE_PART = re.compile(rb"filename\*?=", re.IGNORECASE)
_OVERLAP = 16


class _File(BaseModel):
    path: StrictStr = Field(max_length=1000)


class _Value(BaseModel):
    background: _File | None = None
    layers: list[_File] = Field(default_factory=list, max_length=AT_ONCE)
    composite: _File | None = None


class _Call(BaseModel):
    model_config = ConfigDict(extra="ignore")
    fn_index: StrictInt
    session_hash: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")]
    data: list[Any] = Field(max_length=2)
    trigger_id: StrictInt | None = None


class EditorCalls:
    """Lets Gradio's page do what it needs to open, save and close the mask editor.

    Args:
        uploads: where the files are that it sends.
        events: what each event of the page does, by Gradio's number: open, save or close.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads, events: Mapping[int, str]) -> None:
        self._app = app
        self._uploads = uploads
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not path.startswith(f"{PREFIX}/gradio_api/"):
            await self._app(scope, receive, send)
            return
        what = path.removeprefix(f"{PREFIX}/gradio_api/").rstrip("/")
        try:
            if what.startswith("file="):
                self._check_file(what[len("file=") :])
                await self._app(scope, receive, send)
            elif what == "run/predict" and scope["method"] == "POST":
                await self._call(scope, receive, send)
            elif what == "upload" and scope["method"] == "POST":
                await self._upload(scope, receive, send)
            elif what.startswith("heartbeat/"):
                await self._heartbeat(what[len("heartbeat/") :], scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except Refused as refused:
            await error_of(str(refused), refused.status)(scope, receive, send)

    def _check_file(self, path: str) -> None:
        if not self._uploads.holds(unquote(path)):
            raise Refused(404, "there is no such file")

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _whole(receive)
        if body is None:
            return
        event, session, checked = await asyncio.to_thread(self._checked, body)
        if event == "open":
            self._uploads.opened(session)
            loop = asyncio.get_running_loop()
            loop.call_later(UNSEEN + 1, self._uploads.close_unseen)
        elif event == "close":
            await asyncio.to_thread(self._uploads.closed, session)
        headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(len(checked)).encode()))
        await self._app({**scope, "headers": headers}, _Replayed(checked, receive), send)

    def _checked(self, body: bytes) -> tuple[str, str, bytes]:
        """The event, its session, and the call with nothing in it but what belongs there."""
        try:
            call = _Call.model_validate_json(body)
            event = self._events.get(call.fn_index, "")
            if not event:
                raise Refused(404, f"there is no event {call.fn_index} here")
            data = self._data(event, call.data)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, found["loc"]))
            raise Refused(422, f"{where or 'the body'}: {found['msg']}") from error
        kept = {
            "fn_index": call.fn_index, "session_hash": call.session_hash, "data": data,
            "trigger_id": call.trigger_id, "event_data": None,
        }  # fmt: skip
        return event, call.session_hash, json.dumps(kept).encode()

    def _data(self, event: str, data: list[Any]) -> list[Any]:
        wanted = {"open": 2, "save": 2, "close": 0}[event]
        if len(data) != wanted:
            raise Refused(422, f"data has {len(data)} items; to {event} the editor takes {wanted}")
        if event == "close":
            return []
        if not (isinstance(data[0], str) and re.fullmatch(r"[\w-]{1,64} \d{1,9} \w{0,9}", data[0])):
            raise Refused(422, "data.0 is no gate's id, image and way to start")
        if event == "open":
            if not isinstance(data[1], str):
                raise Refused(422, "data.1 is no text")
            return data
        value = None if data[1] is None else _Value.model_validate(data[1])
        return [data[0], None if value is None else self._value(value)]

    def _value(self, value: _Value) -> dict[str, Any]:
        return {
            "background": self._file(value.background),
            "layers": [self._file(layer) for layer in value.layers],
            "composite": self._file(value.composite),
        }

    def _file(self, file: _File | None) -> dict[str, Any] | None:
        if file is None:
            return None
        if not self._uploads.holds(file.path):
            raise Refused(422, "a file of the editor is not among what was uploaded")
        try:
            with Image.open(file.path) as image:
                if max(image.size) > LONGEST_SIDE:
                    raise Refused(422, f"an image of {image.size} pixels is too large to paint on")
                image.load()
        except Refused:
            raise
        except Exception as error:  # whatever Pillow makes of a broken file
            raise Refused(422, "a file of the editor is no image that can be read") from error
        return {"path": file.path, "meta": {"_type": "gradio.FileData"}}

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = MAX_BODY
        for name, value in scope["headers"]:
            if name.lower() == b"content-length" and value.isdigit():
                size = min(MAX_BODY, int(value))
        await asyncio.to_thread(self._uploads.begin, size)
        counted = _Counted(receive)
        try:
            await self._app(scope, counted.receive, counted.watched(send))
        finally:
            await asyncio.to_thread(self._uploads.end, size)
            asyncio.get_running_loop().call_later(UNSEEN + 1, self._uploads.close_unseen)

    async def _heartbeat(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._uploads.page_opened(session)
        try:
            await self._app(scope, receive, send)
        finally:
            await asyncio.to_thread(self._uploads.page_closed, session)


class _Replayed:
    """A body that was read already, and then whatever comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


class _Counted:
    """Counts the files in a multipart body while it is read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._tail = b""
        self._files = 0
        self._too_many = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            body = self._tail + message.get("body", b"")
            ends = [found.end() for found in _FILE_PART.finditer(body)]
            self._files += sum(end > len(self._tail) for end in ends)
            self._tail = body[-_OVERLAP:]
            if self._files > AT_ONCE:
                self._too_many = True
                raise Refused(413, f"one request uploads at most {AT_ONCE} files")
        return message

    def watched(self, send: Send) -> Send:
        async def watching(message: Message) -> None:
            if self._too_many:  # Gradio may take it for a broken body, and say so
                raise Refused(413, f"one request uploads at most {AT_ONCE} files")
            await send(message)

        return watching


async def _whole(receive: Receive) -> bytes | None:
    """The body; None if whoever sends it goes away."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_JSON:
            raise Refused(413, f"a call of the editor has at most {MOST_JSON} bytes")
        if not message.get("more_body"):
            return body
