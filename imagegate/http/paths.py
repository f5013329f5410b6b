"""Where things are: the prefix of all calls, and the files of the pages. Standard library only."""

from __future__ import annotations

from pathlib import Path

PREFIX = "/imagegate"
PAGES = Path(__file__).parents[1] / "page"
"""What browsers load: the operator's page, the approver's, and what both share."""
