"""Measures the rows of the project's table of numbers that exist by now, in one run."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from . import crowds, load, looking, sharing, storing, waiting
from .measure import NotRun, Row, machine

MEASUREMENTS: dict[str, Callable[[bool], list[Row]]] = {
    "in-process": waiting.in_process,
    "rest-click": waiting.rest_click,
    "rest-click-comfyui": waiting.rest_click_comfyui,
    "preview": looking.preview_ready,
    "visible": looking.visible,
    "next-image": looking.next_image,
    "import": load.pack_import,
    "ten-thousand": load.ten_thousand,
    "tabs": load.tabs,
    "park": storing.park,
    "parked": storing.parked_many,
    "wake": storing.wake,
    "list": storing.list_of_many,
    "link-click": sharing.link_click,
    "link-preview": sharing.link_preview,
    "going-dark": sharing.going_dark,
    "silent-streams": crowds.silent_streams,
    "flooding-link": crowds.flooding_link,
}


COLUMNS = ("what", "measured", "target", "met", "beside it", "how")
WIDTHS = (46, 22, 16, 3, 30, 0)
MET = {True: "yes", False: "NO", None: ""}


def main() -> int:
    """Returns 1 if a measurement could not be carried through; no figure ever fails a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASUREMENTS,
                        help=f"one of {', '.join(MEASUREMENTS)}; may be given again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few samples, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    given = parser.parse_args()
    say(f"{machine()}\nTimes are median / 99th percentile; N says how many were taken.\n")
    say(line(COLUMNS))
    say("|" + "|".join("-" * (width + 2) for width in WIDTHS) + "|")
    began = time.monotonic()
    records = []
    failed = False
    for name in given.only or MEASUREMENTS:
        sys.stderr.write(f"{name} …\n")
        for row in measured(name, given.quick):
            say(line((row.what, row.measured, row.target, MET[row.met], row.beside, row.how)))
            records.append({"name": name, **asdict(row)})
            failed = failed or row.measured.startswith(FAILED)
        if given.json:  # after each, so that a run that is ended early leaves what it has
            record = {"machine": machine(), "quick": given.quick, "rows": records}
            given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    say(f"\nThis took {time.monotonic() - began:.0f} s.")
    return int(failed)


FAILED = "failed: "


def measured(name: str, quick: bool) -> Iterator[Row]:
    """The rows of one measurement, or a row that says why there are none."""
    try:
        yield from MEASUREMENTS[name](quick)
    except NotRun as missing:
        yield Row(name, f"not run: {missing}", "", None)
    except Exception as error:  # the others are still worth having
        traceback.print_exc()
        yield Row(name, f"{FAILED}{error!r:.80}", "", None)


def line(cells: tuple[str, ...]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, WIDTHS, strict=True)) + " |"


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
