"""Runs the panel over a folder of images, or over a store, until somebody ends it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from fastapi import FastAPI

from ..core.bus import Bus, Records
from ..core.model import BadAnswer, StoreError
from ..core.pictures import Pictures
from ..core.settings import read_settings
from ..folder.search import ImageSearch
from ..folder.session import FolderSession, read_routes
from ..folder.sorted.journal import JOURNAL
from ..folder.sorted.label_folders import BadFolder
from ..gate_bus import GateBus
from ..http.access import Door, HostDoor
from ..http.answers import SessionProgress
from ..operator.service import PanelUnavailable
from ..pictures.samples import write_samples
from ..share.share import Share
from ..storage.links import LinkStore
from ..storage.memory import MemoryStorage
from ..storage.sql.database import Database
from ..storage.sql_storage import SqlStorage
from ..text.redact import store_url
from .arguments import create_parser
from .serving import announce, open_listener, own_names, panel_server
from .terminal import StatusLine, progress_text

Build = Callable[[Bus, Door, SessionProgress | None, Records | None, Share | None], FastAPI]


def main(arguments: Sequence[str] | None = None, build: Build | None = None) -> int:
    """Run the panel over a folder, or over a store, until somebody ends it.

    Args:
        arguments: the command line, without the program's name.
        build: makes the ASGI app; by default the panel.

    Returns:
        The exit code: 0, or 2 if it could not start.
    """
    parser = create_parser()
    chosen = parser.parse_args(arguments)
    line = StatusLine()
    logging.getLogger("imagegate").addHandler(line)
    logging.getLogger("imagegate").setLevel(logging.INFO)
    # The panel says what is wrong with a file; Pillow would warn of that, and of large files, too.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if chosen.store is None:
            return _review(chosen, line, build or load_panel)
        return _oversee(chosen, line, build or load_panel)
    except (BadAnswer, BadFolder, PanelUnavailable, StoreError) as error:
        line.close()
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    except KeyboardInterrupt:  # before there was a session to end
        return 0
    finally:
        logging.getLogger("imagegate").removeHandler(line)


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
    storage: MemoryStorage[Pictures] = MemoryStorage(kept=sys.maxsize)  # any answer can be undone
    bus = GateBus(storage)
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
    names = own_names(chosen.host)
    listener = open_listener(chosen.host, chosen.port)
    door = HostDoor(names)
    end = partial(session.close, "the session was ended in the terminal")
    links = LinkStore(Database("sqlite://", "folder"))  # they end with the session
    share = Share(bus, lambda: links, progress=session.progress, names=names)
    server = panel_server(
        lambda: build(bus, door, session.progress, None, share),
        end,
        lambda: announce(chosen, listener, line, "ends the session", share),
    )

    def changed() -> None:
        line.show(progress_text(session.progress()))
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
    line.say(f"{progress_text(progress)}. Sorted into {out}.")
    if progress["left_count"]:
        more = "" if progress["left_count"] <= len(progress["left"]) else ", …"
        line.say(
            f"{progress['left_count']} files beside moved images stayed in {photos}: "
            f"{', '.join(progress['left'])}{more}"
        )
    return 0


def _oversee(chosen: argparse.Namespace, line: StatusLine, build: Build) -> int:
    """Run the panel over a store: a ComfyUI carries on with what is decided here."""
    if chosen.photos is not None:
        raise BadFolder("--store shows what ComfyUI asks for; it takes no folder of images")
    given = {"IMAGEGATE_STORE": chosen.store, "IMAGEGATE_PICTURES": chosen.pictures}
    environment = {**os.environ, **{name: value for name, value in given.items() if value}}
    if not environment.get("IMAGEGATE_STORE"):
        raise BadFolder("--store needs a URL, there or in IMAGEGATE_STORE")
    settings = read_settings(Path(), worker=socket.gethostname(), environment=environment)
    storage = SqlStorage(lambda: settings, kind="panel")
    bus = GateBus(storage)
    names = own_names(chosen.host)
    listener = open_listener(chosen.host, chosen.port)
    door = HostDoor(names)
    share = Share(
        bus, lambda: storage.store.links, worker=storage.id,
        others=lambda: storage.store.others(), names=names,
    )  # fmt: skip
    server = panel_server(
        lambda: build(bus, door, None, storage, share),
        lambda: None,
        lambda: announce(chosen, listener, line, "ends it", share),
    )
    try:
        waiting = bus.count()
        line.say(f"The store is open: {storage.store.database.shown}; {waiting} waiting.")
        line.say("Loading the panel ...")
        share.start()  # there may be links from before
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again once it has shut down
        pass
    finally:
        share.close()
        storage.close()
        listener.close()
    return 0


def load_panel(
    bus: Bus,
    door: Door,
    progress: SessionProgress | None,
    records: Records | None = None,
    share: Share | None = None,
) -> FastAPI:
    """The operator's app; imports gradio, which takes seconds."""
    from ..operator.uploads import keep_from_other_users

    keep_from_other_users()
    try:
        from ..operator.panel import create_panel
    except ImportError as error:
        raise PanelUnavailable(
            f"the panel could not be loaded ({error}); pip install -r requirements.txt"
        ) from error
    return create_panel(bus, door, progress, records, share)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
