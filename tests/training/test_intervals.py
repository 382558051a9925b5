import math
import random

import numpy as np
import pytest
import statsmodels.api as sm

from training.analysis.intervals import clustered_proportion, mean, proportion, ratio


def bounds(result):
    return result["low"], result["high"]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_proportions_have_the_published_wilson_intervals(successes, n, low, high):
    assert bounds(proportion(successes, n)) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_gsm8k_at_two_and_a_half_percent():
    z, n, p = 1.959964, 1319, 33 / 1319
    centre, reach = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(centre + sign * reach) / (1 + z**2 / n) for sign in (-1, 1)]
    assert bounds(proportion(33, 1319)) == pytest.approx(expected, rel=1e-5)
    assert bounds(proportion(33, 1319)) == pytest.approx((0.0179, 0.0349), abs=5e-5)


def test_proportions_at_the_edges_stay_within_0_and_1():
    assert proportion(0, 50)["low"] == 0
    assert proportion(50, 50)["high"] == 1
    assert proportion(0, 50)["high"] == pytest.approx(1 - proportion(50, 50)["low"])


@pytest.mark.parametrize("result", [proportion(0, 0), mean([]), mean([], []), ratio([], [])])
def test_nothing_measured_has_no_value(result):
    assert result == {"value": None, "low": None, "high": None, "n": 0}


def test_more_successes_than_items_are_refused():
    with pytest.raises(ValueError):
        proportion(3, 2)


def test_mean_has_the_t_interval():
    values = [1.0, 2.0, 4.0, 9.0]
    fit = sm.OLS(values, np.ones(4)).fit(use_t=True)
    assert mean(values)["value"] == 4
    assert bounds(mean(values)) == pytest.approx(tuple(fit.conf_int()[0]))


def test_clustered_mean_has_the_interval_of_cluster_robust_regression():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    values = rng.normal(size=12)[clusters] + rng.normal(size=len(clusters))
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    result = mean(values.tolist(), clusters.tolist())
    assert result["value"] == pytest.approx(fit.params[0])
    assert bounds(result) == pytest.approx(tuple(fit.conf_int()[0]))
    assert (result["n"], result["clusters"]) == (len(values), 12)


def test_clusters_of_one_item_each_change_nothing():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert mean(values, "abcde") == pytest.approx({**mean(values), "clusters": 5})


def test_copies_of_items_add_no_certainty():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    copied = mean(values * 10, list(range(5)) * 10)
    assert bounds(copied) == pytest.approx(bounds(mean(values)))


@pytest.mark.parametrize(
    "result", [mean([0.5]), mean([0.2, 0.8], "aa"), ratio([1.0], [2.0])], ids=["item", "cluster", "ratio"]
)
def test_one_item_or_cluster_has_a_value_without_bounds(result):
    assert (result["value"], result["low"], result["high"]) == (0.5, None, None)


def test_clusters_must_be_given_for_every_value():
    with pytest.raises(ValueError):
        mean([1.0, 2.0], ["a"])


def test_a_denominator_must_be_given_for_every_numerator():
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


def test_ratio_is_of_the_sums_and_not_the_mean_of_ratios():
    assert ratio([1.0, 30.0], [1.0, 10.0])["value"] == pytest.approx(31 / 11)


def test_ratio_has_the_interval_of_robust_weighted_regression():
    # A ratio of sums is the regression of y / x on a constant with the weights x.
    rng = np.random.default_rng(1)
    x = rng.integers(1, 100, 40).astype(float)
    y = 3 * x + rng.normal(size=40) * x**0.7
    fit = sm.WLS(y / x, np.ones(40), weights=x).fit(cov_type="HC1", use_t=True)
    result = ratio(y.tolist(), x.tolist())
    assert result["value"] == pytest.approx(fit.params[0])
    assert bounds(result) == pytest.approx(tuple(fit.conf_int()[0]))


def test_ratio_to_equal_denominators_is_a_mean():
    values = [1.0, 2.0, 4.0, 9.0]
    scaled = ratio([8 * value for value in values], [8, 8, 8, 8])
    assert scaled == pytest.approx(mean(values))


def test_ratio_to_nothing_has_no_value():
    assert ratio([0.0, 0.0], [0, 0]) == {"value": None, "low": None, "high": None, "n": 2}


def coverage(draw, truth, repetitions=1500):
    results = [draw() for _ in range(repetitions)]
    return sum(result["low"] <= truth <= result["high"] for result in results) / repetitions


def test_intervals_of_ratios_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)

    def documents():
        x = rng.gamma(2.0, 500.0, 40)
        return ratio(x * (1.5 + 0.3 * rng.normal(size=40)), x)

    # The linearised estimator is a little too sure of itself with few documents.
    assert 0.92 < coverage(documents, 1.5) < 0.965


def test_intervals_of_clustered_means_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(45), 8).tolist()

    def probes():
        """Eight templates of each of 45 facts, which a model knows more or less well."""
        return (rng.random(360) < np.repeat(rng.beta(2, 2, 45), 8)).astype(float)

    assert 0.92 < coverage(lambda: mean(probes(), clusters), 0.5, 1000) < 0.97
    assert coverage(lambda: mean(probes()), 0.5, 300) < 0.9, "without the clusters they are too narrow"


def test_intervals_of_proportions_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    assert 0.93 < coverage(lambda: proportion(rng.binomial(1319, 0.025), 1319), 0.025, 1000) < 0.98


def test_clustered_proportion_of_clusters_that_are_alike_inside_counts_clusters():
    successes, totals = [4, 0, 4, 0, 4, 0, 0, 0, 0, 0], [4] * 10
    found, by_cluster = clustered_proportion(successes, totals), proportion(3, 10)
    assert (found["value"], found["n"], found["clusters"]) == (0.3, 40, 10)
    assert found["low"] == pytest.approx(by_cluster["low"], abs=0.02)
    assert found["high"] == pytest.approx(by_cluster["high"], abs=0.02)


def test_clustered_proportion_of_items_that_are_independent_is_close_to_wilson():
    draw = random.Random(0)
    successes = [sum(draw.random() < 0.3 for _ in range(4)) for _ in range(500)]
    found, plain = clustered_proportion(successes, [4] * 500), proportion(sum(successes), 2000)
    assert found["high"] - found["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.15)


def test_clustered_proportion_without_a_success_has_an_upper_bound_for_the_clusters():
    assert clustered_proportion([0] * 45, [16] * 45)["high"] == proportion(0, 45)["high"]


def test_clusters_without_items_do_not_count():
    assert clustered_proportion([1, 0, 0], [2, 0, 1]) == clustered_proportion([1, 0], [2, 1])
