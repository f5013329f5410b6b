"""ComfyUI's own port: the panel behind it, its websocket, its users."""
