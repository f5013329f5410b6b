"""The node under the name that people look for; see `imagegate.comfy.node`."""

from .comfy.node import ImageGate
from .comfy.outputs import mask_from_stash, route_tuple

__all__ = ["ImageGate", "mask_from_stash", "route_tuple"]
