"""The rise of sparsity: published values, shares of the run where no step is given, and ramps that cannot be."""

from __future__ import annotations

import pytest

from lib.prune.ramp import BadPruning, ramp


def test_both_ramps_have_the_published_values() -> None:
    for schedule, wanted in {"cubic": (0.289, 0.438, 0.492), "late-cubic": (0.008, 0.063, 0.211)}.items():
        rising = ramp(0.5, schedule, warmup=100, end=500, steps=500)
        assert [rising.sparsity(step) for step in (200, 300, 400)] == pytest.approx(wanted, abs=6e-4)
        assert (rising.sparsity(100), rising.sparsity(500), rising.sparsity(501)) == (0.0, 0.5, 0.5)


def test_left_alone_the_ramp_takes_a_tenth_and_three_quarters_of_the_run() -> None:
    whole = ramp(0.5, "cubic", warmup=-1, end=0, steps=540)
    assert (whole.begin, whole.end) == (54, 405)
    assert ramp(0.5, "cubic", warmup=-1, end=0, steps=1).sparsity(1) == 0.5


@pytest.mark.parametrize(
    ("warmup", "end", "message"),
    [
        (-1, 700, r"PRUNING_RAMP_END=700: the run has 540 steps\. Use at most 540, or 0"),
        (405, 0, r"PRUNING_WARMUP=405: the ramp ends at step 405.*or raise PRUNING_RAMP_END"),
    ],
)
def test_a_ramp_that_does_not_fit_into_the_run_is_refused(warmup: int, end: int, message: str) -> None:
    with pytest.raises(BadPruning, match=message):
        ramp(0.5, "cubic", warmup=warmup, end=end, steps=540)
