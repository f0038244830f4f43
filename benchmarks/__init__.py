"""Measurements of what users feel, as tables. Nothing here is a test."""
