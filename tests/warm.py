"""Imported where commands are forked from, and nowhere else: all that they would wait for, once."""

import tempfile
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401
import torch

import hubel
import training.run  # noqa: F401
from model.architectures.pixels import PixelNetwork
from tests.fakes import TINY_PREPROCESSING, tiny_release
from training.export import export_network

hubel.build()
torch.set_num_threads(1)  # before a thread is started: none outlives a fork
with tempfile.TemporaryDirectory() as folder:
    release = tiny_release()
    network = PixelNetwork(release.network, TINY_PREPROCESSING.mean, TINY_PREPROCESSING.std).eval()
    export_network(network, torch.from_numpy(release.golden), Path(folder))
