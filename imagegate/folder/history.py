"""Decisions of earlier sessions over a folder, as the history shows them."""

from __future__ import annotations

from datetime import datetime

from ..core.model import Decision
from .sorted.journal import Entry


def decision_of(line: Entry) -> Decision:
    """The decision that a line of the journal records."""
    try:
        at = datetime.fromisoformat(str(line.get("when", "")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        at = 0.0
    route, texts = line.get("route"), (line.get(key) for key in ("label", "by", "note", "link"))
    label, by, note, link = (text if isinstance(text, str) else "" for text in texts)
    return Decision(route if isinstance(route, int) else 1, label, by, note, at, link)


def labels_with(labels: tuple[str, ...], decision: Decision) -> tuple[str, ...]:
    """Today's labels. A decision's label that is not among them takes the position it had then."""
    route = decision.route or 1
    if labels[route - 1 : route] == (decision.label,):
        return labels
    longer = [*labels, *(str(number) for number in range(len(labels) + 1, route + 1))]
    longer[route - 1] = decision.label
    return tuple(longer)
