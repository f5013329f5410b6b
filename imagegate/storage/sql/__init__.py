"""Gates, links and workers in SQLite or PostgreSQL."""
