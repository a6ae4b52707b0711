"""Unit tests on the boards' processors: the cross-built wheel in an arm64 root, under qemu-user."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import emulate
from root import CACHE, precompile, unpack
from wheels import TARGETS, build_wheel, install_wheels

from tests.arm.conftest import REPOSITORY

#: Per directory the files whose answers could depend on the processor, or that use the C kernel,
#: numpy's loops, an engine or a system call. Left out: what needs a broker or a compiler, oracles
#: that exist on x86 only (opendp, dp-accounting), statistics that take minutes under emulation.
PARTS = {
    "engines": (
        "kernel/test_columns.py", "kernel/test_isa.py", "kernel/test_network.py",
        "kernel/test_noise.py", "kernel/test_rows.py", "kernel/test_streams.py",
        "generator/test_archive.py", "generator/test_bundle.py",
        "generator/test_kernel_engine.py", "generator/test_layout.py",
        "generator/test_public_noise.py", "generator/test_quantize.py",
        "generator/test_reference.py", "generator/test_selfcheck.py",
        "generator/test_tflite.py", "generator/test_weights.py",
        "contracts/test_engines.py",
    ),
    "learning": (
        "schema/test_bins.py", "schema/test_census.py", "schema/test_codec.py",
        "schema/test_coded.py", "training/test_private.py", "training/test_public.py",
        "training/test_step.py", "privacy/test_calibration.py", "privacy/test_counts.py",
        "privacy/test_ledger.py", "messages/test_moments.py", "messages/test_payloads.py",
        "messages/test_summaries.py", "messages/test_update.py",
    ),
}  # fmt: skip
#: Single tests of these that take minutes under emulation, or look at the source tree. The
#: network's known answers are run by the C program (tests/kernel/test_network_processors.py).
LEFT_OUT = (
    "doctor",
    # statistics of many numbers: the known answers say that they are the same numbers here
    "test_categories_fit",
    "test_noise_in_empty_stretches_does_not_become_rows",
    "test_without_noise_it_learns",
    "test_logits_of_a_column_see_earlier_columns_only",
    "test_quality_loss_is_within_sampling_noise",
    "test_rows_of_tflite_and_onnx_cannot_be_told_apart",
    "test_sampled_rows_follow_the_likelihood",
    "test_the_widest_network_keeps_its_sums_exact",
    # hostile bytes: which of them a parser refuses does not depend on the processor
    "test_flipped_bytes_raise_message_errors_only",
    "test_truncated_json_is_refused",
    "test_truncated_messages_are_refused",
    # limits, messages and text: the same everywhere
    "test_an_impossible_one_is_a_clear_error_and_changes_nothing",
    "test_huge_budget_needs_hardly_any_noise",
    "test_json_messages_survive_the_round_trip and objects0",
    "test_nothing_left_is_refused_with_the_numbers",
    # one of several sizes or seeds is enough here
    "test_codes_agree_with_the_yardstick and (sizes0 or sizes2)",
    "test_good_weights_are_run_with_their_worst_error and (2 or 3)",
    "test_one_call_equals_sampling_and_decoding_apart and clamp0",
    "test_learns_nearly_the_entropy",
    "test_every_row_is_sampled_independently_with_the_public_rate",
    "test_network and test_known_answers",
    "test_packaged_graphs_are_what_the_tool_writes",
    "test_rows_do_not_depend_on_the_batch and (1 or 2 or 3)",
    "test_rows_of_weight_zero_do_not_count",
    "test_stops_when_validation_stops_improving",
)
#: what the tests need beside the base install; engines under the names of their extras
REQUIREMENTS = (
    "onnxruntime", "ai-edge-litert", "onnx", "tflite", "pytest", "hypothesis", "scipy",
    "pandas<3", "pyarrow",
)  # fmt: skip


def make_site() -> Path:
    """Return a site-packages with the project's aarch64 wheel and what the tests need."""
    constraints = (REPOSITORY / "tools/deb/constraints.txt").read_bytes()
    made_from = repr((REQUIREMENTS, "compiled")).encode() + constraints
    directory = CACHE / f"site-{hashlib.sha256(made_from).hexdigest()[:12]}"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wheel = build_wheel(TARGETS["arm64"], CACHE / "wheel")
        if not (directory / "done").exists():
            shutil.rmtree(directory, ignore_errors=True)
            install_wheels(TARGETS["arm64"], "3.11", REQUIREMENTS, directory, wheel)
            precompile(directory, directory)
            (directory / "done").touch()
        # The wheel itself is of this commit, whatever is cached. The other process may run from it
        # already, and then it stays.
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if (directory / "done").read_text() != digest:
            shutil.rmtree(directory / "edge_runtime")
            subprocess.run(["unzip", "-q", "-o", wheel, "-d", directory], check=True)
            precompile(directory / "edge_runtime", directory)
            (directory / "done").write_text(digest)
    return directory


def run_unit_tests(*, base: Path, site: Path, board: str, part: str, folder: Path) -> str:
    """Run a part of them on a board's processor, and return pytest's closing line.

    Known answers are the ordinary suite's own: the vectors of tests/kernel/kat.

    Parameters
    ----------
    base : Path
        Directory of root.tar.
    site : Path
        From `make_site`.
    board : str
        Of `emulate.BOARDS`.
    part : str
        Of `PARTS`.
    folder : Path
        For the root; empty.

    Raises
    ------
    AssertionError
        One of them fails.
    """
    source = folder / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "tests", "native", "docs", "pyproject.toml"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    root = folder / "root"
    unpack(base / "root.tar", root)
    done = emulate.run(
        root,
        ["python3", "-P", "-m", "pytest", "-p", "few_examples", "-p", "no:cacheprovider",
         "-c", "/src/pyproject.toml", "--rootdir", "/src", "--durations=15",
         "-k", " and ".join(f"not ({name})" for name in LEFT_OUT),
         *(f"/src/tests/{name}" for name in PARTS[part])],
        board=board,
        binds={site: "/site", source: "/src"},
        environment={
            # The wheel's package, not the one in the source tree, which is not there.
            "PYTHONPATH": "/site:/src:/src/tests/arm",
            "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            "CI": "1",
        },
        timeout_s=1500,
    )  # fmt: skip
    shutil.rmtree(root)
    assert done.returncode == 0, done.stdout[-6000:]
    print(done.stdout[-2000:])
    return done.stdout.strip().splitlines()[-1]
