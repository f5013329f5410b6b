"""A folder of images as a session of gates."""
