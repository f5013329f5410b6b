"""The scenes that attacks are made on, and what holds after each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.attacks.scene import Operator, Ports, Scene, Visitor


@pytest.fixture(scope="session")
def shared_ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def scene(shared_ports: Ports, caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    """Doors of its own for a test; no secret of it may be logged."""
    caplog.set_level(logging.DEBUG)
    scene = Scene(shared_ports)
    try:
        yield scene
    finally:
        scene.close()
    for secret in scene.secrets:
        assert secret not in caplog.text, "a secret was logged"


@pytest.fixture(scope="module")
def still() -> Iterator[Scene]:
    """Doors for attacks that must leave all as it is."""
    ports = Ports()
    scene = Scene(ports)
    before = scene.state()
    try:
        yield scene
        assert scene.state() == before
    finally:
        scene.close()
        ports.close()


@pytest.fixture(scope="module")
def panel(still: Scene) -> Iterator[Operator]:
    """The operator's door over the same bus, with Gradio and all."""
    panel = Operator(still)
    yield panel
    panel.stop()


@pytest.fixture
def operator(panel: Operator) -> Visitor:
    """A program at the operator's machine, at the operator's door."""
    return Visitor(panel.port)
