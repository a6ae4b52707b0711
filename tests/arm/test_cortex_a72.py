"""The unit tests on a Cortex-A72, as in a Raspberry Pi 4."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arm.unit_tests import PARTS, run_unit_tests

pytestmark = pytest.mark.arm


@pytest.mark.parametrize("part", list(PARTS))
def test_unit_tests(base: Path, site: Path, part: str, tmp_path: Path) -> None:
    closing = run_unit_tests(base=base, site=site, board="pi4", part=part, folder=tmp_path)
    assert " passed" in closing
    assert "failed" not in closing
