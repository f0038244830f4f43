"""Which versions of Python and of the packages a network is made with."""

import importlib.metadata
import platform

_PACKAGES = ("hubel", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of what takes part in making a network."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
