"""Remembers gates: in memory, or in a database."""
