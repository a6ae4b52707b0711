from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import BudgetError, LedgerError, TrainingError
from edge_runtime.generator.layout import Layout
from edge_runtime.generator.weights import initial_weights
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.privacy import ORDERS, rdp_subsampled_gaussian, to_epsilon
from edge_runtime.training import (
    Checkpoint,
    NumpyStep,
    OnnxStep,
    TrainSettings,
    calibrate_settings,
    mean_nll,
    release_cost,
    sampling_rate,
    train_private,
)
from edge_runtime.training import cost as cost_module
from edge_runtime.training.cost import batch_cap
from edge_runtime.training.flat import parameter_mask
from edge_runtime.training.step import CLIPPED_CHUNK

from .conftest import chained_codes, flat64, random_codes, random_weights

SETTINGS = TrainSettings(
    steps=12, expected_batch=20, clip_norm=1.0, learning_rate=1e-2, noise_multiplier=1.0
)


class Watching(NumpyStep):
    """The real step, remembering which rows it was given."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.batches: list[np.ndarray] = []

    def __call__(self, weights, codes, clip_norm, out=None):
        self.batches.append(codes.copy())
        return super().__call__(weights, codes, clip_norm, out)


class Recorder(PrivacyNoise):
    """The real noise, remembering the noisy sums."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.sums: list[np.ndarray] = []

    def add_training_noise(self, grad, mask=None, *, clip_norm, noise_multiplier):
        super().add_training_noise(
            grad, mask, clip_norm=clip_norm, noise_multiplier=noise_multiplier
        )
        self.sums.append(grad.copy())


def run(layout, codes, entry, **changes):
    options = {
        "layout": layout,
        "settings": SETTINGS,
        "rows_public": 200.0,
        "entry": entry,
        "noise": PrivacyNoise(b"1" * 32),
        "step": NumpyStep(layout),
    } | changes
    weights = options.pop("weights", None) or random_weights(layout, 1)
    return train_private(weights, codes, **options)


def test_every_row_is_sampled_independently_with_the_public_rate(free):
    """Column 0 numbers the rows, so that the batches show who took part."""
    layout = Layout((150, 2), 2)
    codes = np.stack([np.arange(150), np.zeros(150)], axis=1).astype(np.int32)
    step = Watching(layout)
    settings = msgspec.structs.replace(SETTINGS, steps=1200, expected_batch=15, noise_multiplier=0)
    run(layout, codes, free, settings=settings, rows_public=100.0, step=step)
    q = sampling_rate(settings, 100.0)
    assert q == 0.15
    taken = np.zeros((1200, 150))
    for number, batch in enumerate(step.batches):
        assert np.all(np.diff(batch[:, 0]) > 0)  # a row at most once
        taken[number, batch[:, 0]] = 1.0
    share = taken.mean(axis=0)
    error = math.sqrt(q * (1 - q) / 1200)
    assert np.abs(share - q).max() < 5 * error
    sizes = taken.sum(axis=1)
    # The sum of independent draws has the binomial variance; a fixed batch size would have none.
    assert sizes.var() == pytest.approx(150 * q * (1 - q), rel=0.2)
    assert abs(np.corrcoef(taken[:-1, 3], taken[1:, 3])[0, 1]) < 0.15
    assert abs(np.corrcoef(taken[:, 3], taken[:, 4])[0, 1]) < 0.15


def test_narrow_codes_train_the_same_network(layout, free):
    codes = random_codes(layout, 40, 0)
    wide = run(layout, codes, free)
    narrow = run(layout, codes.astype(np.uint8), free)
    assert all(np.array_equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_small_data_takes_part_whole(layout, free):
    step = Watching(layout)
    run(layout, random_codes(layout, 12, 0), free, rows_public=15.0, step=step)
    assert [len(batch) for batch in step.batches] == [12] * SETTINGS.steps


def test_empty_batches_still_add_noise_and_count(layout, free):
    recorder = Recorder(b"2" * 32)
    done = []
    result = run(
        layout,
        random_codes(layout, 0, 0),
        free,
        noise=recorder,
        on_progress=lambda step, steps: done.append((step, steps)),
    )
    assert done == [(i + 1, 12) for i in range(12)]
    assert len(recorder.sums) == 12
    mask = parameter_mask(layout).astype(bool)
    draws = np.array(recorder.sums)
    assert not draws[:, ~mask].any()
    draws = draws[:, mask]
    # Standard deviation noise_multiplier * clip_norm, in every coordinate.
    assert draws.std() == pytest.approx(1.0, rel=5 / math.sqrt(2 * draws.size))
    assert abs(draws.mean()) < 5 / math.sqrt(draws.size)
    assert len({sums.tobytes() for sums in recorder.sums}) == 12
    assert np.abs(flat64(result) - flat64(random_weights(layout, 1))).max() > 1e-3


def test_noise_scales_with_clip_norm_and_multiplier(layout, free):
    recorder = Recorder(b"3" * 32)
    settings = msgspec.structs.replace(SETTINGS, clip_norm=0.25, noise_multiplier=6.0)
    run(layout, random_codes(layout, 0, 0), free, settings=settings, noise=recorder)
    draws = np.array(recorder.sums)[:, parameter_mask(layout).astype(bool)]
    assert draws.std() == pytest.approx(1.5, rel=5 / math.sqrt(2 * draws.size))


def test_masked_weights_stay_zero(layout, free):
    result = run(layout, random_codes(layout, 200, 0), free)
    for tensor, mask in zip(result[::2], layout.masks, strict=True):
        assert not tensor[mask == 0].any()


def test_without_noise_it_learns(layout, free):
    codes = chained_codes(layout, 2000, 0)
    weights = initial_weights(layout, seed=0)
    settings = msgspec.structs.replace(
        SETTINGS, steps=150, expected_batch=100, clip_norm=5.0, noise_multiplier=0.0
    )
    step = OnnxStep(layout)
    result = run(
        layout, codes, free, weights=weights, settings=settings, rows_public=2000.0, step=step
    )
    held_out = chained_codes(layout, 1000, 50)
    before = mean_nll(weights, held_out, layout, step)
    after = mean_nll(result, held_out, layout, step)
    # 80 % of the columns after the first are copies: entropy 4.3 nats against 7.0 independent.
    assert after < before - 1.5


def test_with_noise_it_learns_within_the_budget(layout, pay):
    codes = chained_codes(layout, 4000, 0)
    weights = initial_weights(layout, seed=0)
    settings = calibrate_settings(
        msgspec.structs.replace(SETTINGS, steps=150, expected_batch=200, averaging=0.9),
        rows_public=4000.0,
        parameters=layout.parameters,
        spent=None,
        epsilon=8.0,
        delta=1e-5,
    )
    cost = release_cost(settings, 4000.0, layout.parameters)
    entry = pay(cost)
    assert 7.9 < entry.epsilon_after <= 8.0
    step = OnnxStep(layout)
    result = run(
        layout, codes, entry, weights=weights, settings=settings, rows_public=4000.0, step=step
    )
    held_out = chained_codes(layout, 1000, 50)
    assert mean_nll(result, held_out, layout, step) < mean_nll(weights, held_out, layout, step) - 1


def test_the_cost_is_above_the_plain_bound_and_close(layout):
    plain = rdp_subsampled_gaussian(0.1, 1.0, 12)
    cost = release_cost(SETTINGS, 200.0, layout.parameters)
    assert np.all(cost > plain)
    assert to_epsilon(cost, 1e-5) < to_epsilon(plain, 1e-5) * 1.01
    free_of_noise = msgspec.structs.replace(SETTINGS, noise_multiplier=0.0)
    assert release_cost(free_of_noise, 200.0, layout.parameters) is None


def test_the_cost_charges_float32_sums_and_the_samplers_distance(layout, monkeypatch):
    """Each correction by a formula of its own; at realistic sizes they hide in the digits."""
    settings = msgspec.structs.replace(SETTINGS, expected_batch=2000)
    rows = batch_cap(2000)
    # What the worst order of summation may move two neighbouring sums apart.
    slack = 2.0 * rows * (CLIPPED_CHUNK + math.ceil(rows / CLIPPED_CHUNK)) * 2.0**-24
    bound = rdp_subsampled_gaussian(0.01, 1.0 / (1.0 + slack), 12)
    cost = release_cost(settings, 200_000.0, layout.parameters)
    assert slack > 0.05
    assert np.all(cost > bound)
    assert np.all(cost < bound * 1.2)  # steepest near order 9
    monkeypatch.setattr(cost_module, "TRAINING_MAX_LOG_DISTANCE", 1e-9)
    more = release_cost(settings, 200_000.0, layout.parameters) - cost
    expected = 12 * layout.parameters * 1e-9 * (2 * ORDERS - 1) / (ORDERS - 1)
    assert more == pytest.approx(expected, rel=1e-3)


def test_the_batch_cap_holds_by_chernoff():
    for expected in range(1, 20_000, 7):
        k = batch_cap(expected) + 1
        for mean, exponent in ((expected, 80), (expected * 4 / 3, 49)):
            assert mean - k + k * math.log(k / mean) > exponent


def test_calibration_counts_what_was_spent(layout):
    kept = {"rows_public": 200.0, "parameters": layout.parameters, "delta": 1e-5}
    spent = rdp_subsampled_gaussian(1.0, 4.0, 1)
    alone = calibrate_settings(SETTINGS, spent=None, epsilon=4.0, **kept)
    after = calibrate_settings(SETTINGS, spent=spent, epsilon=4.0, **kept)
    assert after.noise_multiplier > alone.noise_multiplier
    total = spent + release_cost(after, 200.0, layout.parameters)
    assert 3.9 < to_epsilon(total, 1e-5) <= 4.0
    with pytest.raises(BudgetError, match="12 steps"):
        calibrate_settings(SETTINGS, spent=spent, epsilon=0.5, **kept)


def test_nothing_starts_that_was_not_paid_for(layout, pay, ledger):
    codes = random_codes(layout, 200, 0)
    cost = release_cost(SETTINGS, 200.0, layout.parameters)
    short = pay(0.99 * cost, "short")
    for changes in (
        {"entry": short},
        {"entry": pay(cost, "exact"), "rows_public": 150.0},
        {
            "entry": pay(cost, "noisier"),
            "settings": msgspec.structs.replace(SETTINGS, noise_multiplier=0.9),
        },
        {
            "entry": pay(cost, "longer"),
            "settings": msgspec.structs.replace(SETTINGS, steps=13),
        },
        {
            "entry": pay(cost, "without"),
            "settings": msgspec.structs.replace(SETTINGS, noise_multiplier=0.0),
        },
    ):
        step = Watching(layout)
        with pytest.raises(LedgerError, match="does not cover"):
            run(layout, codes, step=step, **changes)
        assert step.batches == []
    run(layout, codes, ledger.find("exact"))


def test_nothing_is_trained_twice_after_the_release(layout, pay, ledger):
    cost = release_cost(SETTINGS, 200.0, layout.parameters)
    pay(cost)
    ledger._connection.execute("BEGIN")
    ledger.mark_released("training", "m1")
    ledger._connection.execute("COMMIT")
    with pytest.raises(LedgerError, match="released before"):
        run(layout, random_codes(layout, 200, 0), ledger.find("training"))


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_resuming_restores_the_state_bit_for_bit(layout, free, averaging):
    codes = random_codes(layout, 200, 0)
    settings = msgspec.structs.replace(SETTINGS, averaging=averaging)
    saved: list[Checkpoint] = []
    run(layout, codes, free, settings=settings, every=5, on_checkpoint=saved.append)
    assert [c.step for c in saved] == [5, 10]
    stored = Checkpoint.from_bytes(saved[0].to_bytes())
    for name in ("vector", "first_moment", "second_moment", "average"):
        assert getattr(stored, name).tobytes() == getattr(saved[0], name).tobytes()
    # The same later draws must end in the same weights, whether from memory, from bytes, or
    # through another stop and resume at once.
    ends = []
    for start in (saved[0], stored):
        result = run(
            layout,
            codes,
            free,
            settings=settings,
            noise=PrivacyNoise(b"9" * 32),
            checkpoint=start,
            weights=random_weights(layout, 77),
        )
        ends.append(flat64(result).tobytes())
    assert ends[0] == ends[1]
    pieces = PrivacyNoise(b"9" * 32)
    state: list[Checkpoint] = [stored]
    for stop_after in (7, 8, 11):
        assert (
            run(
                layout,
                codes,
                free,
                settings=settings,
                noise=pieces,
                checkpoint=state[-1],
                on_checkpoint=state.append,
                every=1000,
                should_stop=Countdown(stop_after - state[-1].step),
            )
            is None
        )
        assert state[-1].step == stop_after
    last = run(layout, codes, free, settings=settings, noise=pieces, checkpoint=state[-1])
    assert flat64(last).tobytes() == ends[0]


class Countdown:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_checkpoints_of_another_run_are_refused(layout, free):
    codes = random_codes(layout, 200, 0)
    saved: list[Checkpoint] = []
    run(layout, codes, free, every=6, on_checkpoint=saved.append)
    other = Layout(layout.cardinalities, layout.hidden + 1)
    for changes in (
        {"rows_public": 201.0},
        {"settings": msgspec.structs.replace(SETTINGS, noise_multiplier=2.0)},
        {"settings": msgspec.structs.replace(SETTINGS, steps=11)},
    ):
        with pytest.raises(TrainingError, match="another training run"):
            run(layout, codes, free, checkpoint=saved[0], **changes)
    with pytest.raises(TrainingError, match="another training run"):
        run(other, codes, free, checkpoint=saved[0])


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x08" + b"\x00" * 7 + b"{}      "])
def test_damaged_checkpoints_are_refused(data):
    with pytest.raises(TrainingError, match="checkpoint"):
        Checkpoint.from_bytes(data)


def test_checkpoints_of_unequal_tensors_are_refused():
    ones = np.ones(3, np.float32)
    good = Checkpoint(
        run="r", step=1, vector=ones, first_moment=ones, second_moment=ones, average=ones
    )
    data = Checkpoint(
        run="r", step=1, vector=ones, first_moment=ones[:2], second_moment=ones, average=ones
    ).to_bytes()
    assert Checkpoint.from_bytes(good.to_bytes()).run == "r"
    with pytest.raises(TrainingError, match="unequal"):
        Checkpoint.from_bytes(data)
    for cut in range(0, len(good.to_bytes()) - 1, 7):
        with pytest.raises(TrainingError):
            Checkpoint.from_bytes(good.to_bytes()[:cut])


def test_divergence_is_reported(layout, free):
    settings = msgspec.structs.replace(SETTINGS, learning_rate=1e38)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(TrainingError, match="finite"):
        run(layout, random_codes(layout, 200, 0), free, settings=settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("expected_batch", 0),
        ("clip_norm", 0.0),
        ("clip_norm", math.nan),
        ("learning_rate", -1.0),
        ("noise_multiplier", -0.1),
        ("noise_multiplier", math.inf),
        ("averaging", 1.0),
    ],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(TrainingError, match=name):
        TrainSettings(**(msgspec.structs.asdict(SETTINGS) | {name: value}))


@pytest.mark.parametrize("rows", [0.0, -3.0, math.inf, math.nan])
def test_public_rows_out_of_range(rows):
    with pytest.raises(TrainingError, match="public number of rows"):
        sampling_rate(SETTINGS, rows)
