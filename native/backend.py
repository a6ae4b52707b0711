"""In-tree build backend: setuptools, after cffi has written the Python face of the C kernel.

setuptools alone would need a setup.py for cffi; this module does the one step that is missing.
`kernel.h` is the only declaration of the interface: the part between its two markers is what cffi
reads, and the whole of it is what the C compiler checks the generated code against.

Set `EDGE_RUNTIME_WERROR=1` (or `CI`) to turn compiler warnings into errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cffi
from setuptools import build_meta

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NATIVE = Path(__file__).parent
OUTPUT = NATIVE / "build" / "_native.c"
MODULE = "edge_runtime.kernel._native"
# cffi's own code is not held to the warnings that ours is.
PREAMBLE = """\
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wcast-function-type"
#endif
#include "kernel.h"
"""

get_requires_for_build_editable = build_meta.get_requires_for_build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel


def declarations() -> str:
    """Return the C declarations that cffi reads out of kernel.h."""
    text = (NATIVE / "kernel.h").read_text(encoding="utf-8")
    found = re.search(r"/\* cffi: begin \*/(.*)/\* cffi: end \*/", text, re.DOTALL)
    if found is None:
        raise RuntimeError("native/kernel.h: the cffi markers are missing")
    return found.group(1)


def emit(output: Path = OUTPUT) -> None:
    """Write the C source of the extension module, only when it changes."""
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source(MODULE, PREAMBLE)
    output.parent.mkdir(exist_ok=True)
    ffi.emit_c_code(str(output))


@contextmanager
def _prepared() -> Iterator[None]:
    """Emit the C source, and ask for warnings as errors where that is wanted."""
    emit()
    before = os.environ.get("CFLAGS")
    if os.environ.get("CI") or os.environ.get("EDGE_RUNTIME_WERROR"):
        os.environ["CFLAGS"] = f"{before or ''} -Wall -Wextra -Werror".strip()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CFLAGS", None)
        else:
            os.environ["CFLAGS"] = before


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build a wheel (PEP 517)."""
    with _prepared():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build an editable wheel (PEP 660)."""
    with _prepared():
        return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Build a source distribution (PEP 517)."""
    with _prepared():
        return build_meta.build_sdist(sdist_directory, config_settings)
