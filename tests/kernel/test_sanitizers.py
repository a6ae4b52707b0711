"""The C test program, with the address and undefined-behaviour sanitizers and as released."""

from __future__ import annotations

from collections.abc import Callable


def test_no_undefined_behaviour_and_no_stray_access(run_c_program: Callable[..., str]) -> None:
    printed = run_c_program(
        "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    )
    assert " 0 failed" in printed


def test_the_optimised_program_repeats_every_vector(run_c_program: Callable[..., str]) -> None:
    # The flags of the extension module: an optimisation that changed a bit would show here, on
    # every set of lanes that this processor has.
    printed = run_c_program("-O3", "-pedantic", "-fno-trapping-math", "-fno-math-errno")
    assert " 0 failed" in printed
