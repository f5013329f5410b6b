"""How the store's tables came to be. Append only: what stands here has run somewhere.

``{key}``, ``{real}`` and ``{hex}`` are what each database calls them. What SQL cannot do is a
function of the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sa

from ...core.model import plain

Step = str | Callable[[sa.Connection], None]


def _fill_in_titles(connection: sa.Connection) -> None:
    """They stand in the records, in JSON that not every database reads: half characters, say."""
    rows = connection.execute(sa.text("SELECT id, record FROM gates")).all()
    titles = [{"id": id_, "title": plain(json.loads(record)["title"])} for id_, record in rows]
    if titles:
        connection.execute(sa.text("UPDATE gates SET title = :title WHERE id = :id"), titles)


MIGRATIONS: list[tuple[str, list[Step]]] = [
    (
        "0001_gates",
        [
            # What never changes of a gate is in `record`, as JSON; what is asked for has a column.
            """CREATE TABLE gates (
                seq {key},
                id TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL,
                mode TEXT NOT NULL,
                node_id TEXT NOT NULL,
                workflow_id TEXT NOT NULL,
                prompt_id TEXT NOT NULL,
                worker TEXT NOT NULL,
                deadline {real},
                state TEXT NOT NULL,
                open INTEGER NOT NULL,
                version INTEGER NOT NULL,
                decision TEXT,
                reason TEXT NOT NULL,
                masked TEXT NOT NULL,
                ended BIGINT,
                ended_at {real},
                due INTEGER NOT NULL,
                claimed_by TEXT NOT NULL,
                resuming TEXT NOT NULL,
                lease {real},
                attempts INTEGER NOT NULL,
                fingerprint TEXT NOT NULL,
                reusable INTEGER NOT NULL,
                bytes BIGINT NOT NULL,
                kept INTEGER NOT NULL
            )""",
            # Small, however many gates have ended.
            "CREATE INDEX gates_open ON gates (seq) WHERE open = 1",
            "CREATE INDEX gates_due ON gates (ended) WHERE due = 1",
            "CREATE INDEX gates_kept ON gates (ended_at) WHERE kept = 1",
            "CREATE INDEX gates_ended ON gates (ended)",
            "CREATE INDEX gates_fingerprint ON gates (fingerprint, reusable)",
            "CREATE INDEX gates_prompt ON gates (prompt_id)",
            """CREATE TABLE lines (
                id {key},
                gate_id TEXT NOT NULL REFERENCES gates (id),
                at {real} NOT NULL,
                kind TEXT NOT NULL,
                origin TEXT NOT NULL,
                body TEXT NOT NULL
            )""",
            "CREATE INDEX lines_gate ON lines (gate_id, id)",
            """CREATE TABLE masks (
                gate_id TEXT NOT NULL REFERENCES gates (id),
                image INTEGER NOT NULL,
                file TEXT NOT NULL,
                bytes BIGINT NOT NULL,
                PRIMARY KEY (gate_id, image)
            )""",
            """CREATE TABLE parked (
                gate_id TEXT PRIMARY KEY REFERENCES gates (id),
                root TEXT NOT NULL,
                node TEXT NOT NULL,
                item INTEGER NOT NULL,
                told TEXT NOT NULL,
                classes TEXT NOT NULL,
                record TEXT NOT NULL
            )""",
            "CREATE INDEX parked_root ON parked (root)",
            """CREATE TABLE workers (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL,
                kind TEXT NOT NULL,
                host TEXT NOT NULL,
                pid INTEGER NOT NULL,
                started_at {real} NOT NULL,
                seen_at {real} NOT NULL,
                classes TEXT NOT NULL,
                ended INTEGER NOT NULL
            )""",
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
            "INSERT INTO meta (name, value) SELECT 'store', {hex}",
        ],
    ),
    (
        "0002_links",
        [
            "ALTER TABLE gates ADD COLUMN title TEXT NOT NULL DEFAULT ''",
            _fill_in_titles,
            # The share link that the answer came through.
            "ALTER TABLE gates ADD COLUMN link TEXT NOT NULL DEFAULT ''",
            "CREATE INDEX gates_open_title ON gates (title, seq) WHERE open = 1",
            "CREATE INDEX gates_title ON gates (title, ended)",
            "CREATE INDEX gates_link ON gates (link, ended) WHERE link <> ''",
            """CREATE TABLE clicks (
                gate_id TEXT NOT NULL REFERENCES gates (id),
                key TEXT NOT NULL,
                PRIMARY KEY (gate_id, key)
            )""",
            # Of tokens and passphrases only hashes are kept.
            """CREATE TABLE links (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL,
                may TEXT NOT NULL,
                scope TEXT NOT NULL,
                reach TEXT NOT NULL,
                door TEXT NOT NULL,
                once INTEGER NOT NULL,
                passphrase TEXT NOT NULL,
                token TEXT NOT NULL UNIQUE,
                opened INTEGER NOT NULL,
                worker TEXT NOT NULL,
                created_at {real} NOT NULL,
                expires_at {real} NOT NULL,
                revoked_at {real},
                seen_at {real}
            )""",
            "CREATE INDEX links_created ON links (created_at)",
            """CREATE TABLE sessions (
                secret TEXT PRIMARY KEY,
                link TEXT NOT NULL REFERENCES links (id),
                opened_at {real} NOT NULL,
                key TEXT NOT NULL
            )""",
            "CREATE INDEX sessions_link ON sessions (link)",
        ],
    ),
    (
        "0003_prompts_that_went_on",
        [
            # A prompt is kept while something may go on from it: these rows, which are few.
            "CREATE INDEX parked_prompts ON parked (root) WHERE record <> ''",
        ],
    ),
    (
        "0004_wrong_passphrases",
        [
            """CREATE TABLE wrong_passphrases (
                id TEXT PRIMARY KEY,
                link TEXT NOT NULL REFERENCES links (id),
                at {real} NOT NULL
            )""",
            "CREATE INDEX wrong_passphrases_link ON wrong_passphrases (link, at)",
        ],
    ),
    (
        "0005_lists",
        [
            # How long the list is in which a gate was asked, and which of its items were with it.
            "ALTER TABLE parked ADD COLUMN length INTEGER NOT NULL DEFAULT 1",
            "ALTER TABLE parked ADD COLUMN live TEXT NOT NULL DEFAULT '[]'",
            """UPDATE parked SET length = (
                SELECT MAX(one.item) + 1 FROM parked one
                WHERE one.root = parked.root AND one.node = parked.node
            )""",
            "ALTER TABLE parked ADD COLUMN together INTEGER NOT NULL DEFAULT 0",
            # The process in which the prompt still runs that asked the gate.
            "ALTER TABLE parked ADD COLUMN running TEXT NOT NULL DEFAULT ''",
            "CREATE INDEX parked_running ON parked (running)",
        ],
    ),
]
