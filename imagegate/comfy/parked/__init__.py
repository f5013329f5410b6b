"""Prompts that end at a gate and go on after its answer."""
