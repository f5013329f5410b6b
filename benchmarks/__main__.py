"""Measures the rows of the project's table of numbers that exist by now, in one run."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable

from . import load, looking, sharing, storing, waiting
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
}


def main() -> int:
    """Returns 1 if a measurement could not be carried through; no figure ever fails a run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", choices=MEASUREMENTS,
                        help=f"one of {', '.join(MEASUREMENTS)}; may be given again")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few samples, to see that all works")
    given = parser.parse_args()
    rows: list[Row] = []
    failed = False
    for name in given.only or MEASUREMENTS:
        sys.stderr.write(f"{name} …\n")
        try:
            rows += MEASUREMENTS[name](given.quick)
        except NotRun as missing:
            rows.append(Row(name, f"not run: {missing}", "", None))
        except Exception as error:  # the others are still worth having
            traceback.print_exc()
            failed = True
            rows.append(Row(name, f"failed: {error!r:.80}", "", None))
    print(f"{machine()}\nTimes are median / 99th percentile; N says how many were taken.\n")
    print(table(rows))
    return int(failed)


def table(rows: list[Row]) -> str:
    """Markdown, and aligned."""
    met = {True: "yes", False: "NO", None: ""}
    cells = [("what", "measured", "target", "met", "beside it", "how")]
    cells += [(r.what, r.measured, r.target, met[r.met], r.beside, r.how) for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
