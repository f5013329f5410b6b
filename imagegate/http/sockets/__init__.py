"""Listening sockets, and the server behind them."""
