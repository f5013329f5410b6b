"""The options of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from ..core.model import MAX_NAME
from ..text.printable import escaped, name_of
from ..text.redact import store_url
from .serving import PORT


class CommandParser(argparse.ArgumentParser):
    """Reports what is wrong with a command line, without a password that it contains."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        for given in self._given:
            value = given.partition("=")[2] if given.startswith("-") else given
            if ":/" in value or set(value) & set("@="):
                message = message.replace(value, store_url(value).shown)
        super().error(message)


def create_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = CommandParser(
        description="Look at the images of a folder, or of all ComfyUIs that share a store, and "
        "choose which way each goes.",
        epilog="Hidden files are skipped, and links do not lead out of the folder. Start again "
        "with the same folders to continue where you stopped.",
    )
    add = parser.add_argument
    add("photos", metavar="PHOTOS", nargs="?", type=Path,
        help="a folder of images, with all its subfolders; without it, a few samples")  # fmt: skip
    add("--routes", default="keep,fix,reject", metavar="A,B,C", help="1 to 10 labels (%(default)s)")
    add("--out", type=Path, metavar="FOLDER",
        help="where decided files go: FOLDER/LABEL/ (sorted, in the current folder)")  # fmt: skip
    add("--move", action="store_true", help="move the files instead of copying them")
    add("--follow-links", action="store_true",
        help="also follow links to files and folders outside PHOTOS")  # fmt: skip
    add("--title", default="", help="shown above each image instead of its file's name")
    add("--store", nargs="?", const="", metavar="URL",
        help="instead of a folder: the gates of all ComfyUIs that share this store "
        "(IMAGEGATE_STORE)")  # fmt: skip
    add("--pictures", default="", metavar="PLACE",
        help="where its pictures are: a folder or an fsspec URL (IMAGEGATE_PICTURES)")  # fmt: skip
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)")
    add("--port", type=_port, help=f"port to listen on ({PORT}, or the next one that is free)")
    add("--share", action="append", default=[], metavar="NAME", type=_person,
        help="print a link with which this person can see, paint and decide from anywhere for "
        "24 hours; may be repeated")  # fmt: skip
    add("--no-browser", action="store_true", help="do not open the panel in a browser")
    return parser


def _person(text: str) -> str:
    try:
        return name_of(text, MAX_NAME)
    except ValueError as error:
        raise argparse.ArgumentTypeError(escaped(str(error))) from error


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 1 to 65535, or 0 for any")
    return int(text)
