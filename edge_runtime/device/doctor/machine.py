"""Whether this machine can run what is installed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator

from edge_runtime.device.clock import RELEASED_S, synchronised, utc
from edge_runtime.device.doctor.finding import Finding
from edge_runtime.errors import EdgeRuntimeError

__all__ = ["CHECKS"]

_PYTHON = (3, 11)
#: first uniforms of the key of zeros (tests/kernel/kat/streams.txt), as float32 bits
_KNOWN_ANSWER = (0x3E3FBC00, 0x3D5FAAE0, 0x3F7FB1E7)


def _python() -> Iterator[Finding]:
    found = f"Python {platform.python_version()} on {platform.machine()}, {platform.system()}"
    if sys.version_info < _PYTHON:
        yield Finding(
            check="python",
            found=found,
            problem="older than 3.11",
            fix="install Python 3.11 or later",
        )
    else:
        yield Finding(check="python", found=found)


def _kernel() -> Iterator[Finding]:
    try:
        from edge_runtime import kernel  # noqa: PLC0415 - a kernel that fails is a finding
    except ImportError as error:
        yield Finding(
            check="kernel",
            found="no compiled kernel",
            problem=str(error),
            fix="install a wheel for this platform, or build from source with a C compiler",
        )
        return
    except EdgeRuntimeError as error:
        yield Finding(
            check="instruction set",
            found=f"EDGE_RUNTIME_ISA={os.environ.get('EDGE_RUNTIME_ISA')}",
            problem=str(error),
            fix="unset EDGE_RUNTIME_ISA",
        )
        return
    import numpy as np  # noqa: PLC0415 - the kernel brings it; without one it is not looked at

    forced = os.environ.get(kernel.ISA_VARIABLE)
    ours = kernel.isa()
    reason = f"forced by {kernel.ISA_VARIABLE}" if forced else "the fastest"
    others = ", ".join(kernel.available_isas())
    yield Finding(
        check="instruction set",
        found=f"{ours} ({kernel.lanes()} lanes), {reason} of {others}",
    )
    wrong = []
    for name in kernel.available_isas():
        kernel.select_isa(name)
        out = np.empty(len(_KNOWN_ANSWER), np.float32)
        kernel.fill_uniform(out, key=bytes(32), stream=0)
        if tuple(out.view(np.uint32).tolist()) != _KNOWN_ANSWER:
            wrong.append(name)
    kernel.select_isa(ours)
    if wrong:
        yield Finding(
            check="kernel",
            found="known answers differ",
            problem=f"{', '.join(wrong)} compute other numbers than the definition",
            fix=f"set {kernel.ISA_VARIABLE} to one that does not, and report the processor",
        )
    else:
        yield Finding(check="kernel", found="known answers repeated on each instruction set")


def _engines() -> Iterator[Finding]:
    try:
        from edge_runtime.generator import (  # noqa: PLC0415 - needs the kernel
            available_engines,
            find_runtime,
        )
        from edge_runtime.kernel import network_isa  # noqa: PLC0415

        products = network_isa()
    except (ImportError, EdgeRuntimeError) as error:
        yield Finding(
            check="engines",
            found="not looked at",
            problem=str(error),
            fix="mend the kernel first, and unset EDGE_RUNTIME_NETWORK_ISA",
        )
        return
    about = {"kernel": f" ({products} products)"}
    packages = {"onnx": "onnxruntime", "tflite": (find_runtime() or "").replace("_", "-")}
    for name, package in packages.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
            about[name] = f" ({package} {importlib.metadata.version(package)})"
    names = [name + about.get(name, "") for name in available_engines()]
    yield Finding(check="engines", found=", ".join(names))


def _clock() -> Iterator[Finding]:
    now_s = time.time()
    held = {True: "synchronised", False: "not synchronised", None: "not known to be synchronised"}
    found = f"{utc(now_s)}, {held[synchronised()]}"
    if now_s < RELEASED_S:
        yield Finding(
            check="clock",
            found=found,
            problem="the clock has not been set: certificates will be refused",
            fix="let it synchronise: timedatectl set-ntp true",
        )
    else:
        yield Finding(check="clock", found=found)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _kernel, _engines, _clock)
