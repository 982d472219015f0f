import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvla.stats import BINS_PER_DECADE, CEILING_NS, FLOOR_NS, RELATIVE_ERROR, Histogram

IN_RANGE = st.integers(FLOOR_NS, CEILING_NS - 1)


def of(values) -> Histogram:
    histogram = Histogram()
    histogram.add_many(np.array(values, np.int64))
    return histogram


@given(st.lists(IN_RANGE, min_size=1, max_size=200), st.floats(0, 100))
@settings(max_examples=200, deadline=None)
def test_percentile_is_within_its_stated_error_of_numpy(values: list[int], q: float) -> None:
    exact = float(np.percentile(np.array(values, np.float64), q))
    assert of(values).percentile_ns(q) == pytest.approx(exact, rel=RELATIVE_ERROR)


@pytest.mark.parametrize("q", [0.1, 1, 50, 90, 95, 99, 99.9])
def test_percentile_of_many_latencies(q: float) -> None:
    values = np.random.default_rng(1).lognormal(np.log(15e6), 0.5, 200_000).astype(np.int64)
    assert of(values).percentile_ns(q) == pytest.approx(np.percentile(values, q), rel=RELATIVE_ERROR)


def test_worst_case_of_one_full_bin_is_within_the_stated_error() -> None:
    """All values at the lower edge but one at the upper end: interpolation is as wrong as it can be."""
    for exponent in (3, 6, 9, 11):
        low = 10**exponent
        high = round(10 ** (exponent + 1 / BINS_PER_DECADE)) - 1
        values = [low] * 999 + [high]
        for q in (50, 99, 99.8):
            assert of(values).percentile_ns(q) == pytest.approx(np.percentile(values, q), rel=RELATIVE_ERROR)


@given(st.lists(IN_RANGE, min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_extremes_sum_mean_and_deviation_are_exact(values: list[int]) -> None:
    histogram = of(values)
    assert (histogram.min_ns, histogram.max_ns, histogram.sum_ns) == (min(values), max(values), sum(values))
    assert histogram.percentile_ns(0) == min(values) and histogram.percentile_ns(100) == max(values)
    assert histogram.mean_ns == pytest.approx(np.mean(values), rel=1e-12)
    assert histogram.std_ns == pytest.approx(np.std(np.array(values, np.float64)), rel=1e-6, abs=1e-3)


def test_deviation_of_equal_large_values_is_zero() -> None:
    assert of([CEILING_NS - 7] * 1000).std_ns == 0


@given(st.lists(st.integers(-(10**15), 10**15), max_size=60), st.lists(st.integers(-(10**15), 10**15), max_size=60))
@settings(max_examples=50, deadline=None)
def test_add_add_many_and_merge_agree(left: list[int], right: list[int]) -> None:
    one_by_one, merged = Histogram(), of(left)
    for value in left + right:
        one_by_one.add(value)
    merged.merge(of(right))
    for other in (merged, of(left + right)):
        assert other._bins.tolist() == one_by_one._bins.tolist()
        assert vars(other) | {"_bins": 0} == vars(one_by_one) | {"_bins": 0}


def test_values_outside_the_bins_stay_between_border_and_extreme() -> None:
    histogram = of([-5, 3, 800, 2 * CEILING_NS, 5 * CEILING_NS])
    assert histogram.percentile_ns(0) == -5 and histogram.percentile_ns(100) == 5 * CEILING_NS
    assert -5 <= histogram.percentile_ns(25) < FLOOR_NS
    assert CEILING_NS <= histogram.percentile_ns(75) <= 5 * CEILING_NS


def test_empty_is_not_a_number_and_not_zero() -> None:
    empty = Histogram()
    empty.merge(Histogram())
    empty.add_many([])
    assert empty.count == 0
    assert all(math.isnan(value) for value in (empty.mean_ns, empty.std_ns, empty.percentile_ns(50)))
    described = empty.describe_ms()
    assert described.pop("count") == 0 and all(math.isnan(value) for value in described.values())


def test_describe_is_in_milliseconds() -> None:
    described = of([2_000_000, 4_000_000]).describe_ms()
    assert described["count"] == 2 and described["mean_ms"] == 3 and described["max_ms"] == 4
    assert set(described) == {"count", "mean_ms", "std_ms", "min_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms"}


def test_refuses_what_is_no_duration() -> None:
    with pytest.raises(TypeError, match="whole nanoseconds"):
        Histogram().add_many(np.array([1.5]))
    with pytest.raises(ValueError, match="percentile"):
        Histogram().percentile_ns(101)


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    size = histogram._bins.nbytes
    histogram.add_many(np.arange(1, 10**6))
    assert histogram._bins.nbytes == size < 20_000
