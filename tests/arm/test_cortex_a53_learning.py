"""The unit tests of "learning" on a Cortex-A53, as in a Raspberry Pi 3 and Zero 2 W.

One file for each part and processor: `make test-arm` shares files out to two processes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arm.unit_tests import run_unit_tests

pytestmark = pytest.mark.arm


def test_unit_tests(base: Path, site: Path, tmp_path: Path) -> None:
    closing = run_unit_tests(base=base, site=site, board="pi3", part="learning", folder=tmp_path)
    assert " passed" in closing
    assert "failed" not in closing
