"""The commands that make and measure models, one a module."""
