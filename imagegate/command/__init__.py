"""The command ``imagegate``: the panel over a folder of images, or over a shared store."""
