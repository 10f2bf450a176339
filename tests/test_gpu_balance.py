"""The definitions of balance and energy, against cases computed by hand."""

from __future__ import annotations

import math

import pytest

from lib.gpu import balance
from lib.gpu.balance import Energy


@pytest.mark.parametrize(
    ("means", "cv", "state"),
    [
        ([100, 100, 100, 88.9], 4.9, "Excellent"),  # the sample standard deviation would say 5.7, Good
        ([95, 95, 0, 0], 100.0, "Poor"),
        ([90, 90, 30, 90], 34.6, "Poor"),
        ([85, 90, 95, 100], 6.0, "Good"),
        ([75, 85, 95, 105], 12.4, "Fair"),
    ],
)
def test_the_coefficient_of_variation_is_that_of_the_population(means: list[float], cv: float, state: str) -> None:
    assert balance.cv_percent(means) == pytest.approx(cv, abs=0.05)
    assert balance.state(means) == state


@pytest.mark.parametrize(
    ("cv", "word"), [(0, "Excellent"), (4.99, "Excellent"), (5, "Good"), (10, "Fair"), (20, "Poor"), (math.inf, "Poor")]
)
def test_each_band_begins_at_its_limit(cv: float, word: str) -> None:
    assert balance.quality(cv) == word


@pytest.mark.parametrize(
    ("utilization", "state"),
    [
        ([], "Unknown"),
        ([90.0], "Single"),
        ([None], "Single"),
        ([90.0, None], "Unknown"),
        ([1, 2, 0, 1], "Idle"),
        ([0, 0, 0, 0], "Idle"),
        ([10.0, 0.0], "Poor"),
    ],
)
def test_where_there_is_no_balance_to_speak_of_the_state_says_so(utilization: balance.Means, state: str) -> None:
    assert balance.state(utilization) == state
    assert (balance.cv_percent(utilization, least=balance.IDLE) is None) == (state != "Poor")
    assert balance.CODES[state] == (1 if state == "Poor" else 0)


def test_a_balanced_utilization_is_suspect_when_power_or_work_is_not_balanced() -> None:
    assert balance.suspect(0.0, power=63.8, compute_time=None)
    assert balance.suspect(4.9, power=None, compute_time=20.0)
    assert not balance.suspect(4.9, power=19.9, compute_time=None)
    assert not balance.suspect(32.0, power=63.8, compute_time=55.0)  # no secret: the utilization shows it
    assert not balance.suspect(None, power=63.8, compute_time=None)


def test_an_unknown_value_makes_a_total_unknown_and_not_smaller() -> None:
    assert balance.total([1.0, None, 3.0]) is None
    assert balance.mean([70.0, None]) is None
    assert (balance.total([1.0, 3.0]), balance.mean([1.0, 3.0])) == (4.0, 2.0)
    assert balance.max_over_mean([30.0, 90.0]) == 1.5


def test_the_counter_is_exact_where_sampled_power_is_not() -> None:
    """Power is high for the 0.2 s around each sample: the area under the samples is five times what was used."""
    counted, sampled = Energy(), Energy()
    for second in range(11):
        counted.add(second, 300.0, 60.0 * second)
        sampled.add(second, 300.0, None)
    assert (counted.joules, counted.counted) == (600.0, True)
    assert (sampled.joules, sampled.counted) == (3000.0, False)


def test_a_counter_that_begins_anew_costs_no_energy_and_adds_none() -> None:
    energy = Energy()
    for time, counter in [(0, 1e6), (1, 1e6 + 100), (2, 5.0), (3, 105.0)]:
        energy.add(time, 100.0, counter)
    assert energy.joules == pytest.approx(300.0)  # the second with the reset by its power
    assert not energy.counted


def test_energy_goes_on_over_a_gap_in_the_readings() -> None:
    counted, sampled = Energy(), Energy()
    for time in (0, 1, 2, 8, 9):
        counted.add(time, 100.0, 1000.0 + 100 * time)
        sampled.add(time, 100.0, None)
        counted.add(time, None, None)
    assert counted.joules == pytest.approx(900.0)
    assert sampled.joules == pytest.approx(900.0)
