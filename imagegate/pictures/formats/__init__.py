"""Reads image files of every kind, and says why it cannot."""
