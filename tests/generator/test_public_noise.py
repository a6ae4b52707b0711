"""Public noise for checks: the numbers are numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import RangeError
from edge_runtime.generator.public_noise import Uniforms


@pytest.mark.parametrize("seed", [0, 1, 20261126, 2**32 - 1, 2**32, 2**77 + 5, 2**128 - 1])
def test_the_numbers_are_those_of_numpy(seed: int) -> None:
    ours, numpys = Uniforms(seed), np.random.default_rng(seed)
    # Odd sizes leave half a word for the next call.
    for rows, columns in ((256, 14), (3, 5), (1, 1), (0, 4), (7, 3), (64, 101)):
        drawn = ours.draw(rows, columns)
        assert drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn, numpys.random((rows, columns), dtype=np.float32))


@pytest.mark.parametrize("seed", [-1, 2**128])
def test_a_seed_that_is_none_is_refused(seed: int) -> None:
    with pytest.raises(RangeError, match=str(seed)):
        Uniforms(seed)
