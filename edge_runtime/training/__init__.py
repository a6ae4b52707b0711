"""Training the generator: the gradient step, the private loop and the public one."""

from __future__ import annotations

from edge_runtime.training.checkpoint import Checkpoint
from edge_runtime.training.cost import calibrate_settings, release_cost, sampling_rate
from edge_runtime.training.numpy_step import NumpyStep
from edge_runtime.training.onnx_step import OnnxStep
from edge_runtime.training.private import train_private
from edge_runtime.training.public import Epoch, History, mean_nll, train
from edge_runtime.training.settings import TrainSettings
from edge_runtime.training.step import Clipped, GradientStep, make_step

__all__ = [
    "Checkpoint",
    "Clipped",
    "Epoch",
    "GradientStep",
    "History",
    "NumpyStep",
    "OnnxStep",
    "TrainSettings",
    "calibrate_settings",
    "make_step",
    "mean_nll",
    "release_cost",
    "sampling_rate",
    "train",
    "train_private",
]
