"""Noise for releases of private data: integers only, from a generator nobody can repeat."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, ffi, key_bytes, lib, output, pointer

__all__ = [
    "TRAINING_MAX_LOG_DISTANCE",
    "TRAINING_SIGMA_INT",
    "TRAINING_STATISTICAL_DISTANCE",
    "PrivacyNoise",
    "effective_noise_multiplier",
    "sigma_fraction",
]

#: standard deviation, in grid steps, of the noise that `add_training_noise` adds
TRAINING_SIGMA_INT: int = lib.ER_SIGMA_INT
#: Each noise entry of `add_training_noise` is within this statistical distance of a variable whose
#: max-log distance (largest |log of the ratio of probabilities|) from the discrete Gaussian is at
#: most the other; docs/kernel-noise.md proves both.
TRAINING_STATISTICAL_DISTANCE = 2.0**-122
TRAINING_MAX_LOG_DISTANCE = 2.0**-109

_SIGMA_BITS = 20
_NUMERATOR_LIMIT = 1 << 44
_DENOMINATOR_LIMIT = 1 << _SIGMA_BITS
_SIGMA_LIMIT = 1 << 24
#: unit roundoff of float32
_FLOAT32_ROUNDOFF = 2.0**-24
#: relative excess of a clipped row's norm over the clip norm: a float32 norm over at most 8,000
#: terms is off by half of 8,192 roundoffs
_ROW_SLACK = 2.0**-12


def sigma_fraction(sigma: float) -> Fraction:
    """Return a standard deviation as a fraction that the exact sampler takes, rounded up.

    Parameters
    ----------
    sigma : float
        Above 0, at most 2^24.

    Returns
    -------
    Fraction
        At least `sigma`, by a relative 2^-20 at most (an absolute 2^-20 below 1), with a
        denominator that is a power of two up to 2^20.

    Raises
    ------
    KernelError
        If sigma is not finite or out of range.
    """
    if not (math.isfinite(sigma) and 0.0 < sigma <= _SIGMA_LIMIT):
        raise KernelError(f"sigma {sigma} is outside 0..2^24 (0 excluded)")
    exponent = max(0, math.frexp(sigma)[1] - 1)
    denominator = 1 << max(0, _SIGMA_BITS - exponent)
    exact = Fraction(sigma)
    return Fraction(math.ceil(exact * denominator), denominator)


class PrivacyNoise:
    """ChaCha20 seeded by the operating system, and the noise mechanisms on top of it.

    An object may be shared by threads (its calls wait for each other). After a fork the child
    seeds itself anew, and an object cannot be pickled or copied: noise that two releases share
    cancels out of their difference.

    Parameters
    ----------
    seed : bytes, optional
        32 bytes that make the noise repeatable, which undoes all privacy: for tests only.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._from_system = seed is None
        self._start(os.urandom(lib.ER_KEY_BYTES) if seed is None else seed)

    def discrete_gaussian(self, out: NDArray[np.int64], *, sigma: Fraction | float) -> None:
        """Fill with exact discrete Gaussian noise.

        Parameters
        ----------
        out : int64 [n]
            Contiguous.
        sigma : Fraction or float
            Standard deviation parameter, above 0 and at most 2^24. A fraction is taken exactly
            (numerator below 2^44, denominator at most 2^20), a float through `sigma_fraction`.

        Notes
        -----
        Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (2020),
        algorithm 3, in integer arithmetic only.
        """
        output(out, "discrete_gaussian", np.int64)
        n, d = _width(sigma, "discrete_gaussian", "sigma")
        with self._entered() as state:
            code = lib.er_noise_discrete_gaussian(state, pointer(out), out.size, n, d)
        check(code, "discrete_gaussian")

    def discrete_laplace(self, out: NDArray[np.int64], *, scale: Fraction | float) -> None:
        """Fill with exact discrete Laplace noise: P(x) proportional to exp(-|x| / scale).

        Added to an integer of sensitivity 1 it is (1 / scale)-differentially private.

        Parameters
        ----------
        out : int64 [n]
            Contiguous.
        scale : Fraction or float
            Above 0 and at most 2^24. A fraction is taken exactly (numerator below 2^44,
            denominator at most 2^20), a float through `sigma_fraction`, which rounds it up.

        Notes
        -----
        Canonne, Kamath, Steinke (2020), algorithm 2, in integer arithmetic only.
        """
        output(out, "discrete_laplace", np.int64)
        n, d = _width(scale, "discrete_laplace", "scale")
        with self._entered() as state:
            code = lib.er_noise_discrete_laplace(state, pointer(out), out.size, n, d)
        check(code, "discrete_laplace")

    def uniform_u64(self, out: NDArray[np.uint64]) -> None:
        """Fill uint64 [n] with uniform 64-bit integers."""
        output(out, "uniform_u64", np.uint64)
        with self._entered() as state:
            code = lib.er_noise_uniform_u64(state, pointer(out), out.size)
        check(code, "uniform_u64")

    def bernoulli(self, out: NDArray[np.uint8], *, p: float) -> None:
        """Fill with 0 and 1; P(1) is `p` rounded down to a multiple of 2^-64.

        Parameters
        ----------
        out : uint8 [n]
            Contiguous.
        p : float
            0 to 1.
        """
        output(out, "bernoulli", np.uint8)
        with self._entered() as state:
            code = lib.er_noise_bernoulli(state, pointer(out), out.size, p)
        check(code, f"bernoulli with p {p}")

    def add_training_noise(
        self,
        grad: NDArray[np.float32],
        mask: NDArray[np.uint8] | None = None,
        *,
        clip_norm: float,
        noise_multiplier: float,
    ) -> None:
        """Make a clipped gradient sum private, in place.

        With the grid g = noise_multiplier * clip_norm / `TRAINING_SIGMA_INT`, each entry becomes
        (round(entry / g) + z) * g, where z is a discrete Gaussian of standard deviation
        `TRAINING_SIGMA_INT`. What this gives to account for is `effective_noise_multiplier`.

        Parameters
        ----------
        grad : float32 [m]
            Sum over the batch of gradients of norm at most `clip_norm`; contiguous.
        mask : uint8 [m], optional
            Entries with mask 0 carry no parameter: they become 0 and take no noise. The mask must
            be public and the same for every release.
        clip_norm, noise_multiplier : float
            Both above 0.

        Raises
        ------
        KernelError
            If an unmasked entry is not finite or above 2^62 g in size; nothing is changed then.
        """
        output(grad, "add_training_noise", np.float32)
        mask_pointer = ffi.NULL
        if mask is not None:
            output(mask, "add_training_noise (mask)", np.uint8)
            if mask.shape != grad.shape:
                raise KernelError(
                    f"add_training_noise: {mask.size} mask entries for {grad.size} parameters"
                )
            mask_pointer = pointer(mask)
        with self._entered() as state:
            code = lib.er_noise_training(
                state, pointer(grad), grad.size, mask_pointer, clip_norm, noise_multiplier
            )
        check(code, "add_training_noise")

    @contextmanager
    def _entered(self) -> Iterator[Any]:
        """Lock the state, after replacing it when this process is not the one that made it."""
        if self._process != os.getpid():
            # The child of a fork has one thread; its parent's lock may be held for ever.
            self._lock = threading.Lock()
            if self._from_system:
                self._start(os.urandom(lib.ER_KEY_BYTES))
            self._process = os.getpid()
        with self._lock:
            yield self._handle

    def _start(self, seed: bytes) -> None:
        seed = key_bytes(seed, "PrivacyNoise")
        state = lib.er_noise_new(seed, len(seed))
        if state == ffi.NULL:
            raise KernelError("PrivacyNoise: no memory for its state")
        self._handle = ffi.gc(state, lib.er_noise_free)

    def __reduce__(self) -> NoReturn:
        raise KernelError("PrivacyNoise cannot be copied or pickled: noise must not be repeated")


def _width(width: Fraction | float, function: str, name: str) -> tuple[int, int]:
    """Return numerator and denominator of a sigma or scale that the exact samplers take."""
    exact = width if isinstance(width, Fraction) else sigma_fraction(float(width))
    n, d = exact.numerator, exact.denominator
    if not (0 < n < _NUMERATOR_LIMIT and d <= _DENOMINATOR_LIMIT and n <= _SIGMA_LIMIT * d):
        raise KernelError(
            f"{function}: {name} {exact} has too large a numerator or denominator or is "
            "outside 0..2^24; sigma_fraction(float(...)) rounds it up to one that fits"
        )
    return n, d


def effective_noise_multiplier(
    noise_multiplier: float,
    parameters: int,
    *,
    rows: int = 256,
    summed_in_float32: int | None = None,
) -> float:
    """Return the noise multiplier that the accountant may count for `add_training_noise`.

    Rounding to the grid adds up to sqrt(parameters) grid steps to the sensitivity, and the
    float32 sum of the rows' gradients is not the exact sum. docs/kernel-noise.md has the argument.

    Parameters
    ----------
    noise_multiplier : float
        What `add_training_noise` was given, above 0.
    parameters : int
        Number of unmasked entries, at least 1.
    rows : int
        Most rows that one release may sum.
    summed_in_float32 : int, optional
        Most rows added up in float32 before the partial sums are added in float64; all of them
        when not given.

    Returns
    -------
    float
        Below `noise_multiplier`.

    Raises
    ------
    KernelError
        If an argument is out of range, or float32 cannot carry so many rows.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0.0):
        raise KernelError(f"noise multiplier {noise_multiplier} must be finite and above 0")
    if parameters < 1 or rows < 1 or (summed_in_float32 is not None and summed_in_float32 < 1):
        raise KernelError(
            f"parameters ({parameters}) and rows ({rows}, {summed_in_float32}) must be positive"
        )
    chunk = rows if summed_in_float32 is None else min(rows, summed_in_float32)
    # One roundoff for each addition, three for the products before and the rounding after.
    roundoff = (chunk + 3) * _FLOAT32_ROUNDOFF
    if roundoff >= 0.01:
        raise KernelError(f"{chunk} rows are too many to sum in float32; sum smaller parts")
    # Each of two neighbouring sums is off by at most roundoff / (1 - roundoff) * rows * clip_norm.
    summation = 2.0 * rows * roundoff / (1.0 - roundoff)
    sensitivity = (1.0 + _ROW_SLACK) * (1.0 + summation)
    rounding = noise_multiplier * math.sqrt(parameters) / TRAINING_SIGMA_INT
    # The last factor covers the float64 arithmetic here and of the grid.
    return noise_multiplier / (sensitivity + rounding) * (1.0 - 2.0**-40)
