"""What stands for `hubel serve` where a benchmark has workers of its own kind."""

import argparse
import os

from service import launch
from service.settings import load_settings


def serve(factory: str) -> None:
    """Read the options that `benchmarks.server` gives, and serve with the workers of `factory` ("module:function")."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    for option, kind in (("--port", int), ("--registry", str), ("--workers", str)):
        parser.add_argument(option, type=kind)
    given = parser.parse_args()
    launch.serve(load_settings(os.environ, port=given.port, registry=given.registry, workers=given.workers), factory)
