"""How fast Image Gate is, beside the plain way of doing it: ``python -m benchmarks``."""
