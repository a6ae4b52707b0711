"""Peak memory of one device of a peer, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tools.bench.federation.classifier import Encoder
from tools.bench.federation.tasks import Task

__all__ = ["client_peak_mb"]

_PROGRAM = """
import sys, numpy
from edge_runtime.evaluation.network import Mlp
rows = numpy.load(sys.argv[1])
network = Mlp(sys.argv[2], [rows[f"w{i}"] for i in range(4)])
network.train(rows["x"], rows["y"], epochs=1, batch=128, learning_rate=0.01, seed=0)
# getrusage would report the peak of the process that started this one, when that was larger
status = open("/proc/self/status").read()
print(status.partition("VmHWM:")[2].split()[0])
"""


def client_peak_mb(task: Task) -> float:
    """Return the peak resident memory of the largest device's local training, in MB.

    numpy and the network only: no Flower, no gRPC, no data frame. A Flower client process as
    people run it needs several times as much, so this is the least a peer costs.
    """
    encoder = Encoder(task)
    x, y = encoder.arrays(max(task.devices, key=len))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "device.npz"
        weights = {f"w{i}": w for i, w in enumerate(encoder.network(0).weights)}
        np.savez(path, x=x, y=y, **weights)
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(path), encoder.kind],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    return int(done.stdout) / 1024
