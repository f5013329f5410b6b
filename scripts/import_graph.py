"""Draws who imports whom, from the code's own imports: python scripts/import_graph.py [--write]

Prints the graph of the packages as Mermaid text; ``--write`` puts it into docs/architecture.md.
An arrow that other arrows imply already is left out.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "imagegate"
PAGE = ROOT / "docs" / "architecture.md"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Every module by its name below ``imagegate``; a package's own is ``NAME.__init__``."""


def imports_of(module: str, *, everywhere: bool) -> set[str]:
    """The modules of this package that a module imports.

    ``everywhere``: also inside functions, and for type checking alone.
    """
    package = module.split(".")[:-1]
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            for name in (".".join([*target, alias.name]) for alias in node.names):
                parent = ".".join(target)
                known = (name, f"{name}.__init__", parent, f"{parent}.__init__", "__init__")
                found.add(next(one for one in known if one in MODULES))
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if everywhere or not (lazy or typing):
            todo += ast.iter_child_nodes(node)
    return found


def room(module: str) -> str:
    """The package that a module lies in; one that lies in none stands for itself."""
    return module.partition(".")[0]


def arrows() -> Iterator[tuple[str, str]]:
    """Each import from one room into another."""
    for module in MODULES:
        for wanted in imports_of(module, everywhere=True):
            if room(module) != room(wanted):
                yield module, wanted


def graph() -> dict[str, set[str]]:
    """Each room with the rooms it imports from, without those that others lead to anyway."""
    direct: dict[str, set[str]] = {room(module): set() for module in MODULES}
    del direct["__init__"]
    for module, wanted in arrows():
        if "__init__" not in (room(module), room(wanted)):
            direct[room(module)].add(room(wanted))

    def reached(name: str) -> set[str]:
        return direct[name].union(*map(reached, direct[name]))

    return {
        name: wanted - set().union(*map(reached, wanted)) for name, wanted in sorted(direct.items())
    }


def mermaid() -> str:
    """The graph as Mermaid text, in its fence."""
    lines = ["```mermaid", "graph TD"]
    for name, wanted in graph().items():
        lines += [f"  {name} --> {other}" for other in sorted(wanted)]
    return "\n".join([*lines, "```", ""])


def with_graph(page: str) -> str:
    """The page, with the graph as it is now."""
    return re.sub(r"```mermaid\n.*?\n```\n", lambda _: mermaid(), page, count=1, flags=re.DOTALL)


def main() -> int:
    """Print the graph, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into docs/architecture.md")
    if parser.parse_args().write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_graph(page), encoding="utf-8")
    else:
        sys.stdout.write(mermaid())
    return 0


if __name__ == "__main__":
    sys.exit(main())
