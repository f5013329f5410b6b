"""Notifies people of gates that wait."""
