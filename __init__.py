"""What ComfyUI loads. It registers the node and the routes, and starts nothing."""

WEB_DIRECTORY = "./imagegate/web"

# Outside a package (a test runner looking at this folder, say) there is nothing to register.
if __package__:
    from .imagegate.comfy.decisions import ImageGateDecisions
    from .imagegate.comfy.node import ImageGate

    NODE_CLASS_MAPPINGS = {"ImageGate": ImageGate, "ImageGateDecisions": ImageGateDecisions}
    NODE_DISPLAY_NAME_MAPPINGS = {
        "ImageGate": "Image Gate (Manual Router)",
        "ImageGateDecisions": "Image Gate: Decisions of a List",
    }

    try:
        from server import PromptServer
    except ImportError:  # imported without ComfyUI
        PromptServer = None

    if PromptServer is not None and getattr(PromptServer, "instance", None) is not None:
        from .imagegate.comfy.port.pack import attach
        from .imagegate.comfy.service import shared_service

        attach(PromptServer.instance, shared_service())

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
else:
    NODE_CLASS_MAPPINGS = {}
