from __future__ import annotations

import math
import sqlite3
from fractions import Fraction

import numpy as np
import pytest

from edge_runtime.errors import LedgerError
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.privacy import Ledger, rdp_gaussian, release_counts, round_sigma


@pytest.fixture
def ledger():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield Ledger(connection, epsilon_limit=None, delta=1e-5)
    connection.close()


def paid(ledger, sigma, squared):
    cost = None if sigma is None else rdp_gaussian(float(sigma) / math.sqrt(squared))
    return ledger.spend(key="census", what="census", rdp=cost, details={})


def test_noise_has_the_sigma_that_was_paid_for(ledger):
    sigma = round_sigma(6.3)
    entry = paid(ledger, sigma, 4.0)
    counts = {
        "one_way.0": np.full(20_000, 100, np.int64),
        "pair.0.1": np.arange(10_000, dtype=np.int64).reshape(100, 100),
    }
    noisy = release_counts(
        entry, counts, sensitivity_squared=4.0, sigma=sigma, noise=PrivacyNoise(b"7" * 32)
    )
    assert noisy["pair.0.1"].shape == (100, 100)
    draws = np.concatenate([(noisy[k] - counts[k]).ravel() for k in counts])
    assert draws.dtype == np.int64
    # 30,000 draws: the mean is within 4.5 standard errors, the variance within 4.
    assert abs(draws.mean()) < 4.5 * 6.3 / math.sqrt(draws.size)
    assert draws.var() == pytest.approx(6.3**2, rel=4 * math.sqrt(2 / draws.size))
    assert np.corrcoef(draws[:-1], draws[1:])[0, 1] == pytest.approx(0.0, abs=0.03)


def test_two_releases_never_share_noise(ledger):
    sigma = round_sigma(50.0)
    entry = paid(ledger, sigma, 1.0)
    counts = {"a": np.zeros(64, np.int64)}
    first, second = (
        release_counts(entry, counts, sensitivity_squared=1.0, sigma=sigma, noise=PrivacyNoise())[
            "a"
        ]
        for _ in range(2)
    )
    assert not np.array_equal(first, second)


def test_less_noise_than_paid_for_is_refused(ledger):
    entry = paid(ledger, Fraction(10), 9.0)
    counts = {"a": np.zeros(4, np.int64)}
    noise = PrivacyNoise()
    for sigma, squared in ((Fraction(9), 9.0), (Fraction(10), 10.0)):
        with pytest.raises(LedgerError, match="paid for less"):
            release_counts(entry, counts, sensitivity_squared=squared, sigma=sigma, noise=noise)
    with pytest.raises(LedgerError, match="not for exact"):
        release_counts(entry, counts, sensitivity_squared=9.0, sigma=Fraction(0), noise=noise)
    release_counts(entry, counts, sensitivity_squared=9.0, sigma=Fraction(11), noise=noise)


def test_nothing_after_the_release_left(ledger):
    entry = paid(ledger, Fraction(10), 1.0)
    connection = ledger._connection
    connection.execute("BEGIN")
    ledger.mark_released("census", "m")
    connection.execute("COMMIT")
    entry = ledger.find("census")
    with pytest.raises(LedgerError, match="released before"):
        release_counts(
            entry,
            {"a": np.zeros(4, np.int64)},
            sensitivity_squared=1.0,
            sigma=Fraction(10),
            noise=PrivacyNoise(),
        )


def test_exact_counts_need_an_entry_without_privacy(ledger):
    entry = paid(ledger, None, 1.0)
    counts = {"a": np.arange(4, dtype=np.int64)}
    exact = release_counts(
        entry, counts, sensitivity_squared=1.0, sigma=Fraction(0), noise=PrivacyNoise()
    )
    assert np.array_equal(exact["a"], counts["a"])
    exact["a"][0] = 99
    assert counts["a"][0] == 0


def test_sigma_is_rounded_up():
    for sigma in (0.1, 1.0, 7.3001, 12345.678):
        rounded = round_sigma(sigma)
        assert sigma <= float(rounded) <= sigma + 1 / 1024
        assert rounded.denominator <= 1024
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma"):
            round_sigma(bad)
