"""The report's statistics: against tables, against scipy, and against what can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lib.report import statistics


def test_one_value_has_a_mean_and_no_deviation_and_none_has_nothing() -> None:
    assert statistics.summary([2.0]) == statistics.Summary(1, 2.0, None)
    assert statistics.summary([]) is None


def test_the_deviation_is_that_of_a_sample() -> None:
    found = statistics.summary([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert found is not None and found.mean == 5.0
    assert found.std == pytest.approx(2.138089935299395, rel=1e-15)  # sqrt(32 / 7)


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_students_t_is_that_of_the_tables(freedom: int, table: float) -> None:
    assert statistics.t_quantile(0.975, freedom) == pytest.approx(table, abs=6e-4)


@pytest.mark.parametrize("freedom", range(1, 40))
def test_students_t_is_scipys(freedom: int) -> None:
    for share in (0.5, 0.6, 0.9, 0.975, 0.995):
        assert statistics.t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9, abs=1e-9)


def test_pairs_are_made_by_seed_whatever_their_order() -> None:
    found = statistics.paired({"0": 1.0, "1": 2.0, "7": 99.0}, {"1": 1.5, "0": 0.0, "8": -99.0})
    assert found is not None and (found.n, found.mean) == (2, 0.75)


def test_without_a_common_seed_nothing_is_compared() -> None:
    assert statistics.paired({"0": 1.0}, {"1": 1.0}) is None


def test_the_interval_of_paired_differences_is_scipys() -> None:
    chance = np.random.default_rng(1)
    ours, theirs = chance.normal(0.3, 1, 8), chance.normal(0, 1, 8)
    found = statistics.paired(dict(zip("abcdefgh", ours, strict=True)), dict(zip("abcdefgh", theirs, strict=True)))
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found is not None and (found.low, found.high) == pytest.approx((low, high))
    assert found.effect == pytest.approx(np.mean(ours - theirs) / np.std(ours - theirs, ddof=1))


def test_five_pairs_have_no_p_and_six_of_one_sign_the_smallest_there_is() -> None:
    differences = {str(n): 1.0 + n / 10 for n in range(6)}
    six = statistics.paired(differences, dict.fromkeys(differences, 0.0))
    five = statistics.paired(differences, dict.fromkeys(list(differences)[:5], 0.0))
    assert five is not None and five.p is None
    assert six is not None and six.p == 2 / 2**6


def test_sign_flips_are_counted_by_hand() -> None:
    """±1±2±3: |sum| is 6, 4, 2, 0, 0, 2, 4, 6; 1 + 2 - 3 = 0 is reached by all, 6 by two of eight."""
    assert statistics.sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    assert statistics.sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    assert statistics.sign_flip_p([0.1 + 0.2, -0.3]) == 1.0  # equal but for the rounding


def test_sign_flips_are_scipys_permutation_test() -> None:
    values = np.random.default_rng(2).normal(0.4, 1, 10)
    exact = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert statistics.sign_flip_p(list(values)) == pytest.approx(exact)


def test_many_pairs_are_flipped_by_chance_close_to_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(3).normal(0.25, 1, 17))
    by_chance = statistics.sign_flip_p(values)
    assert by_chance == statistics.sign_flip_p(values)
    assert statistics.sign_flip_p([10.0] * 30) >= 1 / statistics.FLIPS
    monkeypatch.setattr(statistics, "EXACT_PAIRS", 17)
    assert by_chance == pytest.approx(statistics.sign_flip_p(values), abs=0.005)


def test_holm_is_his_own_example_and_never_falls() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.5]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_front_is_what_nobody_beats() -> None:
    """Quality as a cost, memory, time; the last is beaten by the first, the fourth equals the second."""
    costs = np.array([[1.0, 5.0, 5.0], [2.0, 1.0, 9.0], [3.0, 3.0, 1.0], [2.0, 1.0, 9.0], [1.0, 5.0, 6.0]])
    assert statistics.front(costs).tolist() == [True, True, True, True, False]


def test_differences_that_vary_by_rounding_alone_have_no_effect_size() -> None:
    ours, theirs = {"0": 355 / 360, "1": 354 / 360, "2": 356 / 360}, {"0": 356 / 360, "1": 355 / 360, "2": 357 / 360}
    found = statistics.paired(ours, theirs)
    assert found and found.mean == pytest.approx(-1 / 360) and found.effect is None
