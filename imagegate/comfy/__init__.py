"""The nodes, and everything that knows ComfyUI."""
