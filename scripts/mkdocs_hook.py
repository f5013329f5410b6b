"""Adds the pages that lie at the project's root, where GitHub looks for them, to the documentation.

Links between them and the pages in ``docs/`` work in both: as they are written on GitHub, and
rewritten here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AT_ROOT = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root."""
    from mkdocs.structure.files import File

    for name in AT_ROOT:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are from a page within the documentation."""
    names = "|".join(map(re.escape, AT_ROOT))
    markdown = re.sub(rf"\]\(\.\./({names})", r"](\1", markdown)
    return markdown.replace("](docs/", "](").replace("](README.md)", "](index.md)")
