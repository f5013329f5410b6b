"""The panel on its own: over a folder of images, or over all ComfyUIs that share a store.

python gradio_app.py PHOTOS --routes keep,fix,reject --out sorted
python gradio_app.py --store postgresql+psycopg://USER@HOST/NAME --pictures /mnt/pictures
"""

from __future__ import annotations

import argparse
import asyncio
import io
import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from imagegate.core.bus import Bus, Records
from imagegate.core.model import MAX_NAME, BadAnswer, StoreError
from imagegate.core.pictures import Pictures
from imagegate.core.settings import read_names, read_settings
from imagegate.folder.label_folders import BadFolder
from imagegate.folder.log import JOURNAL
from imagegate.folder.search import ImageSearch
from imagegate.folder.session import FolderSession, read_routes
from imagegate.gate_bus import GateBus
from imagegate.http.access import Door, HostDoor
from imagegate.http.serving import PREFIX, Progress
from imagegate.http.sockets import listen
from imagegate.operator.service import PanelUnavailable
from imagegate.pictures.samples import write_samples
from imagegate.share.share import Share
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from imagegate.storage.stored_bus import StoredBus
from imagegate.text.printable import escaped, name_of
from imagegate.text.redact import store_url

PORT = 7865
GRACE = 1.0
"""Seconds that open pages have to hear that the session ended, before the server goes."""

Build = Callable[[Bus, Door, Progress | None, Records | None, Share | None], FastAPI]


def main(arguments: Sequence[str] | None = None, build: Build | None = None) -> int:
    """Review a folder, or the gates of a store, until somebody ends it.

    Args:
        arguments: of the command line, without the program's name.
        build: makes the ASGI app; by default the panel's.

    Returns:
        The exit code: 0, or 2 if it could not start.
    """
    chosen = _parser().parse_args(arguments)
    line = StatusLine()
    logging.getLogger("imagegate").addHandler(line)
    logging.getLogger("imagegate").setLevel(logging.INFO)
    # The panel says what is wrong with a file; Pillow warns of it, and of large ones, as well.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if chosen.store is None:
            return _review(chosen, line, build or _panel)
        return _oversee(chosen, line, build or _panel)
    except (BadAnswer, BadFolder, PanelUnavailable, StoreError) as error:
        line.close()
        sys.stderr.write(f"gradio_app.py: {error}\n")
        return 2
    except KeyboardInterrupt:  # before there was a session to end
        return 0
    finally:
        logging.getLogger("imagegate").removeHandler(line)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line, but no password that stands in it."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        for given in self._given:
            value = given.partition("=")[2] if given.startswith("-") else given
            if ":/" in value or set(value) & set("@="):
                message = message.replace(value, store_url(value).shown)
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        description="Look at the images of a folder, or of all ComfyUIs that share a store, and "
        "choose which way each goes.",
        epilog="Hidden files are not looked at, and links do not lead out of the folder. Start "
        "again with the same folders to go on where you stopped.",
    )
    add = parser.add_argument
    add("photos", metavar="PHOTOS", nargs="?", type=Path,
        help="a folder of images, with all its subfolders; without it, a few samples")  # fmt: skip
    add("--routes", default="keep,fix,reject", metavar="A,B,C", help="1 to 10 labels (%(default)s)")
    add("--out", type=Path, metavar="FOLDER",
        help="where decided files go: FOLDER/LABEL/ (sorted, in the current folder)")  # fmt: skip
    add("--move", action="store_true", help="move the files instead of copying them")
    add("--follow-links", action="store_true",
        help="also show what links to files and folders outside PHOTOS lead to")  # fmt: skip
    add("--title", default="", help="shown above each image instead of its file's name")
    add("--store", nargs="?", const="", metavar="URL",
        help="instead of a folder: the gates of all ComfyUIs that share this store "
        "(IMAGEGATE_STORE)")  # fmt: skip
    add("--pictures", default="", metavar="PLACE",
        help="where its pictures lie, a folder or an fsspec URL (IMAGEGATE_PICTURES)")  # fmt: skip
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)")
    add("--port", type=_port, help=f"port to listen on ({PORT}, or the next one that is free)")
    add("--share", action="append", default=[], metavar="NAME", type=_person,
        help="print a link for this person, by which they see, paint and decide from anywhere for "
        "24 hours; again for one more person")  # fmt: skip
    add("--no-browser", action="store_true", help="do not open the panel in a browser")
    return parser


def _review(chosen: argparse.Namespace, line: StatusLine, build: Build) -> int:
    photos, out = chosen.photos, chosen.out or Path("sorted")
    if photos is not None and not photos.exists() and set(str(photos)) & set(":@="):
        shown = store_url(str(photos).replace(":/", "://", 1)).shown
        raise BadFolder(f"{shown} is no folder; the URL of a store goes after --store")
    routes = read_routes(chosen.routes)
    if photos is None:
        place = Path(tempfile.mkdtemp(prefix="imagegate-samples-"))
        photos, out = place / "photos", chosen.out or place / "sorted"
        photos.mkdir()
        write_samples(photos)
        line.say(f"No folder was named, so here are a few sample images: {photos}")
    bus: GateBus[Pictures] = GateBus(kept=sys.maxsize)  # whatever was decided can be undone
    session = FolderSession(
        bus, photos, out, routes, move=chosen.move, follow_links=chosen.follow_links,
        title=chosen.title, changed=lambda: changed(),
    )  # fmt: skip
    search = ImageSearch(photos, out, follow_links=chosen.follow_links)
    if next(iter(search), None) is None and not search.refused:
        nothing = f"no images below {photos}"
        if not (out / JOURNAL).exists():
            raise BadFolder(nothing)
        line.say(f"{nothing}. What was decided earlier is in {out}.")
        return 0
    names = _names(chosen.host)
    listener = _listen(chosen.host, chosen.port)
    door = HostDoor(names)
    end = partial(session.close, "the session was ended in the terminal")
    links = LinkStore(Database("sqlite://", "folder"))  # they end with the session
    share = Share(bus, lambda: links, progress=session.progress, names=names)
    server = Server(
        lambda: build(bus, door, session.progress, None, share),
        end,
        lambda: _opened(chosen, listener, line, "ends the session", share),
    )

    def changed() -> None:
        line.show(_progress_text(session.progress()))
        if session.ended.is_set():
            server.should_exit = True

    try:
        earlier = session.start()
        if earlier:
            line.say(f"{earlier} decided in earlier sessions; going on from there.")
        line.say("Loading the panel ...")
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again once it has shut down
        pass
    finally:
        end()
        share.close()
        listener.close()
    line.close()
    progress = session.progress()
    line.say(f"{progress['reason'][:1].upper()}{progress['reason'][1:]}; start again to go on.")
    line.say(f"{_progress_text(progress)}. Sorted into {out}.")
    if progress["left_count"]:
        more = "" if progress["left_count"] <= len(progress["left"]) else ", …"
        line.say(
            f"{progress['left_count']} files beside moved images stayed in {photos}: "
            f"{', '.join(progress['left'])}{more}"
        )
    return 0


def _oversee(chosen: argparse.Namespace, line: StatusLine, build: Build) -> int:
    """The panel over a store: what is decided in it, a ComfyUI goes on with."""
    if chosen.photos is not None:
        raise BadFolder("--store shows what ComfyUI asks for; it takes no folder of images")
    given = {"IMAGEGATE_STORE": chosen.store, "IMAGEGATE_PICTURES": chosen.pictures}
    environment = {**os.environ, **{name: value for name, value in given.items() if value}}
    if not environment.get("IMAGEGATE_STORE"):
        raise BadFolder("--store needs a URL, there or in IMAGEGATE_STORE")
    settings = read_settings(Path(), worker=socket.gethostname(), environment=environment)
    bus = StoredBus(lambda: settings, kind="panel")
    names = _names(chosen.host)
    listener = _listen(chosen.host, chosen.port)
    door = HostDoor(names)
    share = Share(bus, lambda: bus.house.links, worker=bus.id, others=bus.others, names=names)
    server = Server(
        lambda: build(bus, door, None, bus, share),
        lambda: None,
        lambda: _opened(chosen, listener, line, "ends it", share),
    )
    try:
        waiting = bus.count()
        line.say(f"The store is open: {bus.house.database.shown}; {waiting} waiting.")
        line.say("Loading the panel ...")
        share.start()  # there may be links from before
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again once it has shut down
        pass
    finally:
        share.close()
        bus.close()
        listener.close()
    return 0


def _names(host: str) -> list[str]:
    """Names under which people call this server, the one they chose to listen on included."""
    return [*read_names(), *([host.lower()] if host else [])]


def _opened(
    chosen: argparse.Namespace, listener: socket.socket, line: StatusLine, end: str, share: Share
) -> None:
    """The server answers: say where, and show it."""
    shown = "127.0.0.1" if chosen.host in ("0.0.0.0", "::", "") else chosen.host  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    url = f"http://{shown}:{listener.getsockname()[1]}{PREFIX}/"
    line.say(f"Image Gate: open {url} (Ctrl+C {end})")
    if not _is_loopback(chosen.host):
        line.say(
            f"Warning: --host {chosen.host} lets anybody on the network see and decide; "
            "--share NAME gives a link to one person."
        )
    if not chosen.no_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    _invite(share, chosen.share, line)


def _invite(share: Share, names: Sequence[str], line: StatusLine) -> None:
    """Make a link for each of these people and say its address, once there is one."""
    if not names:
        return
    invited = [share.create(name) for name in names]
    said: dict[str, tuple[str, str]] = {}
    one_by_one = threading.Lock()

    def look() -> None:
        with one_by_one:
            for link, token in invited:
                address, problem = share.address(link, token)
                if (address, problem) == said.get(link.id, ("", "")) or not share.waits_for(link):
                    continue
                said[link.id] = address, problem
                if problem:
                    line.say(f"{problem}. {'In this network:' if address else 'Trying again ...'}")
                if address:
                    line.say(f"{link.name}'s link, for 24 hours and one browser: {address}")
                    line.draw(address)

    line.say("Opening the way in for the people you named ...")
    share.changed.listen(look)
    look()


class Server(uvicorn.Server):
    """Serves until it is ended, and lets open pages hear of it before it goes.

    Args:
        build: makes what is served, once the server starts.
        end: called when it ends.
        opened: called once it answers.
    """

    def __init__(
        self, build: Callable[[], FastAPI], end: Callable[[], None], opened: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                build, factory=True, log_level="warning", access_log=False,
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._end = end
        self._opened = opened

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._opened()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._end)
        if not self.force_exit:
            await asyncio.sleep(GRACE)
        # Streams to open pages are cut off now, which is no error worth a traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


class StatusLine(logging.Handler):
    """Writes messages to the terminal, and below them one line that changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = threading.RLock()  # one message after the other
        self._text = ""
        self._at = 0.0
        self._tty = sys.stdout.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))

    def say(self, message: str) -> None:
        """A message that stays."""
        with self._terminal:
            self._write(f"{self._clear()}{message}\n{self._text if self._tty else ''}")

    def draw(self, address: str) -> None:
        """An address as a QR code, where somebody can see it."""
        if self._tty:
            import segno

            out = io.StringIO()
            segno.make_qr(address, error="l").terminal(out, compact=True)
            self.say(out.getvalue().rstrip())

    def show(self, text: str) -> None:
        """The line that changes; where there is no terminal, one more line."""
        with self._terminal:
            if text == self._text:
                return
            self._text = text
            now = time.monotonic()
            if not self._tty:
                if not text.startswith("looking"):
                    self._write(f"{text}\n")
            elif now - self._at > 0.05 or not text.startswith("looking"):
                self._at = now
                self._write(f"{self._clear()}{text}")

    def close(self) -> None:
        """The line goes."""
        with self._terminal:
            if self._tty and self._text:
                self._write(self._clear())
            self._text = ""
        super().close()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._tty and self._text else ""

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


def _progress_text(progress: dict[str, Any]) -> str:
    text = f"{progress['done']} of {progress['total']} decided"
    if progress["unreadable_count"]:
        text += f", {progress['unreadable_count']} unreadable"
    if progress["missing_count"]:
        text += f", {progress['missing_count']} sorted files changed or gone since"
    if progress["ended"]:
        return text
    if progress["away"]:
        return f"{progress['away']}; {progress['waiting']} images wait for it"
    if progress["scanning"]:
        return f"looking for images: {progress['total']} found"
    if progress["all_done"]:
        text += f"; all done, sorted into {progress['out']}. Ctrl+C ends the session"
    return text


def _panel(
    bus: Bus,
    door: Door,
    progress: Progress | None,
    records: Records | None = None,
    share: Share | None = None,
) -> FastAPI:
    try:
        from imagegate.operator.panel import create_panel  # gradio takes seconds to import
    except ImportError as error:
        raise PanelUnavailable(
            f"the panel could not be loaded ({error}); pip install -r requirements.txt"
        ) from error
    return create_panel(bus, door, progress, records, share)


def _listen(host: str, port: int | None) -> socket.socket:
    for wanted in (port,) if port is not None else (*range(PORT, PORT + 20), 0):
        try:
            return listen(host, wanted)
        except socket.gaierror:
            raise BadFolder(f"--host {host} is no address of this machine") from None
        except OSError as error:
            failure = f"cannot listen on {host} port {wanted}: {error.strerror}"
    raise BadFolder(f"{failure}; choose another --port")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _person(text: str) -> str:
    try:
        return name_of(text, MAX_NAME)
    except ValueError as error:
        raise argparse.ArgumentTypeError(escaped(str(error))) from error


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 1 to 65535, or 0 for any")
    return int(text)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
