"""Text as people write and read it. Standard library only."""
