import json
import math

import numpy as np
import pytest
from scipy import stats

from training.analysis.paired import compare, holm

# Hours of sleep that two drugs gave ten patients: Student 1908, "The probable error of a mean", section IX.
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
BOOTSTRAP = {"replications": 2000}


def compare_seeds(baseline, treatment, **settings):
    """Compare arms whose seeds have one value each."""
    return compare(np.array(baseline)[:, None], np.array(treatment)[:, None], **BOOTSTRAP, **settings)


def differing_by(differences):
    return compare_seeds(np.zeros(len(differences)), differences)


def answers(seeds=5, items=300, difference=0.05, random_seed=0):
    """Return which of the same items the runs of two arms get right."""
    rng = np.random.default_rng(random_seed)
    easy = rng.random(items) * 0.8
    return rng.random((seeds, items)) < easy, rng.random((seeds, items)) < easy + difference


def width(result):
    return result.bootstrap["high"] - result.bootstrap["low"]


# Means and the t interval


def test_interval_and_p_value_are_those_published_for_students_sleep():
    result = compare_seeds(*SLEEP)
    # As in R's documentation of t.test(extra ~ group, data = sleep, paired = TRUE).
    assert result.difference == pytest.approx(1.58)
    assert result.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)


def test_t_test_of_answers_is_the_one_of_the_means_of_seeds():
    base, treated = answers()
    result = compare(base, treated, **BOOTSTRAP)
    expected = stats.ttest_rel(treated.mean(axis=1), base.mean(axis=1))
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_means_spreads_and_differences_are_over_seeds():
    base = [[0, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 1]]  # 1/4, 1/2, 3/4
    treated = [[1, 0, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]]  # 1/2, 3/4, 1
    treated[2][0] = 0  # 3/4
    result = compare(np.array(base) > 0, np.array(treated) > 0, **BOOTSTRAP)
    assert (result.seeds, result.items, result.clusters) == (3, 4, 4)
    assert (result.baseline_mean, result.baseline_sd) == pytest.approx((1 / 2, 1 / 4))
    assert (result.treatment_mean, result.treatment_sd) == pytest.approx((2 / 3, math.sqrt(1 / 48)))
    assert result.seed_differences == pytest.approx((1 / 4, 1 / 4, 0))
    assert result.difference == pytest.approx(1 / 6)


def test_smaller_alpha_widens_both_intervals():
    base, treated = answers()
    narrow, wide = (compare(base, treated, alpha=alpha, **BOOTSTRAP) for alpha in (0.1, 0.01))
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]
    assert width(wide) > width(narrow)


def test_result_favours_the_better_arm_and_neither_without_a_finding():
    base, treated = SLEEP
    assert compare_seeds(base, treated).favours == "treatment"
    assert compare_seeds(base, treated, higher_is_better=False).favours == "baseline"
    assert compare_seeds(treated, base).favours == "baseline"
    assert compare_seeds(base, treated, alpha=0.002).favours is None


# What cannot be known


def test_one_seed_has_a_difference_but_nothing_over_seeds():
    base, treated = answers(seeds=1)
    result = compare(base, treated, margin=0.1)
    assert result.difference == treated.mean() - base.mean()
    over_seeds = (
        "baseline_sd treatment_sd interval p_value bootstrap permutation equivalence minimum_detectable_effect"
    )
    assert {getattr(result, name) for name in over_seeds.split()} == {None}
    assert result.note.startswith("One seed says nothing about the spread between seeds")
    assert len(result.mcnemar) == 1 and result.odds_ratio > 1 and result.favours is None


# 0.3 - 0.1 and 0.4 - 0.2 are not equal as floating-point numbers.
@pytest.mark.parametrize("arms", [([0.1, 0.2, 0.5], [0.3, 0.4, 0.7]), ([0.1, 0.2, 0.5], [0.1, 0.2, 0.5])])
def test_equal_differences_in_all_seeds_have_no_interval_and_a_note(arms):
    result = compare_seeds(*arms, margin=1)
    assert result.interval is result.p_value is result.equivalence is result.minimum_detectable_effect is None
    assert "the same in all 3 seeds" in result.note
    assert result.permutation["p_value"] == (0.25 if result.difference else 1)
    assert result.bootstrap["low"] == pytest.approx(result.difference)


def test_ordinary_comparison_needs_no_note():
    assert compare(*answers(), **BOOTSTRAP).note is None


@pytest.mark.parametrize(
    ("baseline", "treatment", "settings", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), {}, r"\(2, 3\).*\(3, 3\)"),
        (np.zeros(3), np.zeros(3), {}, r"\(3,\); pass \(seeds, items\)"),
        (np.zeros((2, 0)), np.zeros((2, 0)), {}, r"\(2, 0\); pass \(seeds, items\)"),
        (np.zeros((2, 2)), [[0, 0], [0, math.nan]], {}, "treatment is nan at seed 1, item 1"),
        ([[0, -math.inf], [0, 0]], np.zeros((2, 2)), {}, "baseline is -inf at seed 0, item 1"),
        (np.zeros((2, 2), bool), np.zeros((2, 2)), {}, "baseline holds bool and the treatment float64"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"margin": 0}, "margin of equivalence is 0"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"margin": math.nan}, "margin of equivalence is nan"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"alpha": 0}, "alpha is 0"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"alpha": 5}, "alpha is 5"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"replications": 0}, "0 replications"),
        (np.zeros((2, 2)), np.ones((2, 2)), {"clusters": ["a"]}, "1 labels of clusters for 2 items"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_was_seen(baseline, treatment, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(baseline, treatment, **settings)


def test_json_holds_every_field_and_comes_back_equal():
    as_json = compare(*answers(), margin=0.1, **BOOTSTRAP).to_json()
    assert json.loads(json.dumps(as_json, allow_nan=False)) == as_json
    assert as_json["seed_differences"] and as_json["mcnemar"][4]["only_treatment"] and as_json["favours"]


# Properties that hold for any data


@pytest.mark.parametrize("kind", [bool, float])
def test_exchanged_arms_flip_every_sign(kind):
    base, treated = (arm.astype(kind) for arm in answers())
    there, back = compare(base, treated, margin=0.1, **BOOTSTRAP), compare(treated, base, margin=0.1, **BOOTSTRAP)
    assert back.difference == -there.difference
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert (back.bootstrap["low"], back.bootstrap["high"]) == pytest.approx(
        (-there.bootstrap["high"], -there.bootstrap["low"])
    )
    for name in ("p_value", "permutation", "minimum_detectable_effect"):
        assert getattr(back, name) == pytest.approx(getattr(there, name))
    assert back.bootstrap["p_value"] == there.bootstrap["p_value"]
    assert back.equivalence["p_value"] == pytest.approx(there.equivalence["p_value"])
    if kind is bool:
        assert back.odds_ratio == pytest.approx(1 / there.odds_ratio)
        assert [seed["only_baseline"] for seed in back.mcnemar] == [seed["only_treatment"] for seed in there.mcnemar]


@pytest.mark.parametrize("axis", [0, 1], ids=["seeds", "items"])
def test_order_of_seeds_and_items_does_not_matter(axis):
    base, treated = answers()
    order = np.random.default_rng(1).permutation(base.shape[axis])
    given = compare(base, treated, margin=0.1, **BOOTSTRAP)
    shuffled = compare(base.take(order, axis), treated.take(order, axis), margin=0.1, **BOOTSTRAP)
    for name in ("difference", "interval", "p_value", "permutation", "minimum_detectable_effect", "odds_ratio"):
        assert getattr(shuffled, name) == pytest.approx(getattr(given, name))
    assert shuffled.equivalence == pytest.approx(given.equivalence)
    assert sorted(shuffled.seed_differences) == pytest.approx(sorted(given.seed_differences))
    # The bootstrap draws by position, so here others are drawn.
    assert width(shuffled) == pytest.approx(width(given), rel=0.15)


def test_constant_added_to_both_arms_changes_no_statistic_of_the_difference():
    rng = np.random.default_rng(0)
    base, treated = rng.normal(size=(2, 4, 50))
    given, moved = (compare(base + add, treated + add, margin=0.1, **BOOTSTRAP) for add in (0, 1000))
    for name in ("difference", "interval", "p_value", "bootstrap", "permutation", "equivalence"):
        assert getattr(moved, name) == pytest.approx(getattr(given, name))
    assert moved.minimum_detectable_effect == pytest.approx(given.minimum_detectable_effect)


def test_scaled_values_scale_what_has_their_unit_and_no_probability():
    rng = np.random.default_rng(0)
    base, treated = rng.normal(size=(2, 4, 50))
    points, shares = compare(base * 100, treated * 100, **BOOTSTRAP), compare(base, treated, **BOOTSTRAP)
    assert points.interval == pytest.approx(tuple(100 * end for end in shares.interval))
    assert width(points) == pytest.approx(100 * width(shares))
    assert points.minimum_detectable_effect == pytest.approx(100 * shares.minimum_detectable_effect)
    assert (points.p_value, points.bootstrap["p_value"]) == pytest.approx(
        (shares.p_value, shares.bootstrap["p_value"])
    )


# The bootstrap over seeds and items


def test_bootstrap_is_the_same_for_the_same_random_seed_alone():
    base, treated = answers()
    first, again, other = (compare(base, treated, random_seed=number).bootstrap for number in (0, 0, 1))
    assert first == again != other


def test_bootstrap_draws_the_items_once_for_all_seeds():
    # Items differ, seeds do not: more seeds then tell no more about other items.
    by_item = np.random.default_rng(0).normal(size=400)
    results = [compare(np.zeros((seeds, 400)), np.tile(by_item, (seeds, 1))) for seeds in (2, 8)]
    expected = 2 * 1.96 * by_item.std() / math.sqrt(400)
    assert [width(result) for result in results] == pytest.approx([expected] * 2, rel=0.05)


def test_bootstrap_draws_seeds():
    # Seeds differ, items do not.
    by_seed = np.random.default_rng(0).normal(size=30)
    result = compare(np.zeros((30, 10)), np.tile(by_seed[:, None], 10))
    assert width(result) == pytest.approx(2 * 1.96 * by_seed.std() / math.sqrt(30), rel=0.05)


def test_copies_of_items_in_one_cluster_do_not_narrow_the_bootstrap():
    base, treated = answers(items=60)
    alone = compare(base, treated)
    labels = [f"fact {number}" for number in range(60)] * 9
    copies = compare(np.tile(base, 9), np.tile(treated, 9), clusters=labels)
    unaware = compare(np.tile(base, 9), np.tile(treated, 9))
    assert (copies.items, copies.clusters) == (540, 60)
    assert copies.bootstrap == pytest.approx(alone.bootstrap)
    assert width(unaware) < 0.8 * width(copies)


def test_clusters_of_several_sizes_keep_the_mean_over_items():
    # A constant difference stays what it is whichever clusters are drawn; a mean of their sums would not.
    clusters = np.repeat(np.arange(6), [1, 2, 3, 10, 20, 4])
    base = np.random.default_rng(0).normal(size=(3, 40))
    result = compare(base, base + 0.5, clusters=clusters.tolist(), **BOOTSTRAP)
    assert (result.bootstrap["low"], result.bootstrap["high"]) == pytest.approx((0.5, 0.5))


def test_single_cluster_leaves_seeds_to_draw_and_says_so():
    base, treated = answers()
    result = compare(base, treated, clusters=["all"] * 300, **BOOTSTRAP)
    assert result.note == "All items are one cluster, so the bootstrap draws seeds alone."
    assert min(result.seed_differences) <= result.bootstrap["low"] < result.bootstrap["high"]
    assert result.bootstrap["high"] <= max(result.seed_differences)


def test_bootstrap_p_value_is_never_0():
    result = compare(np.zeros((3, 20)), np.ones((3, 20)), replications=999)
    assert result.bootstrap == {"low": 1, "high": 1, "p_value": pytest.approx(2 / 1000)}


def test_bootstrap_of_many_items_draws_no_other_ones_in_several_parts(monkeypatch):
    base, treated = answers()
    whole = compare(base, treated, **BOOTSTRAP).bootstrap
    monkeypatch.setattr("training.analysis.paired._DRAWN_AT_ONCE", 7 * 300)
    assert compare(base, treated, **BOOTSTRAP).bootstrap == pytest.approx(whole)


# Sign flips


def test_sign_flips_of_four_seeds_are_counted_by_hand():
    # Of the 16 sums of ±1 ±2 ±3 ±4, those of at least 8 are 10 and 8; twice for both sides.
    result = differing_by([-1, 2, 3, 4])
    assert result.permutation == {"p_value": 4 / 16, "smallest_possible": 2 / 16, "exact": True}


@pytest.mark.parametrize("seeds", [2, 3, 5, 6, 8])
def test_smallest_sign_flip_p_value_is_reached_by_seeds_that_agree(seeds):
    found = differing_by(range(1, seeds + 1)).permutation
    assert found["p_value"] == found["smallest_possible"] == 2 / 2**seeds


def test_sign_flips_of_many_seeds_are_drawn():
    differences = np.random.default_rng(0).normal(0.5, 1, 20)
    found = differing_by(differences).permutation
    assert not found["exact"]
    assert found["p_value"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert differing_by([1] * 19 + [2]).permutation["p_value"] == found["smallest_possible"]


# McNemar's test and odds


def answers_of(both, only_baseline, only_treatment, neither):
    counts = [both, only_baseline, only_treatment, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "p_value"),
    [
        # The examples of Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data": twice
        # the chance of so few among so many tosses of a coin.
        ((1, 1, 7, 12), 2 * (1 + 8) / 2**8),
        ((59, 6, 16, 80), 2 * (1 + 22 + 231 + 1540 + 7315 + 26334 + 74613) / 2**22),
    ],
)
def test_mcnemar_is_the_exact_test_in_published_examples(counts, p_value):
    base, treated = answers_of(*counts)
    (found,) = compare(base[None], treated[None]).mcnemar
    assert (found["only_baseline"], found["only_treatment"]) == counts[1:3]
    assert found["p_value"] == pytest.approx(p_value)


def test_mcnemar_is_of_each_seed_and_equal_answers_find_nothing():
    base, treated = answers()
    base[1] = treated[1]
    found = compare(base, treated, **BOOTSTRAP).mcnemar
    assert len(found) == 5
    assert found[1] == {"only_baseline": 0, "only_treatment": 0, "p_value": 1}
    assert found[0]["only_treatment"] - found[0]["only_baseline"] == treated[0].sum() - base[0].sum()


def test_numbers_have_neither_mcnemar_nor_odds():
    result = compare(*(arm.astype(int) for arm in answers()), **BOOTSTRAP)
    assert result.mcnemar is None and result.odds_ratio is None


def test_odds_ratio_is_of_the_arms_means():
    base, treated = answers_of(2, 0, 4, 4)  # 20 % and 60 %
    assert compare(base[None], treated[None]).odds_ratio == pytest.approx((6 / 4) / (2 / 8))


def test_odds_of_certainty_have_no_ratio():
    base, treated = answers_of(0, 0, 4, 4)
    assert compare(base[None], treated[None]).odds_ratio is None
    assert compare(treated[None], np.ones((1, 8), bool)).odds_ratio is None


# Equivalence and what could have been found


def test_equivalence_within_half_an_hour_of_sleep_is_not_shown():
    # t = (0.5 - 1.58) / 0.38896 = -2.7766 with 9 degrees of freedom, against the bound that is nearer.
    found = compare_seeds(*SLEEP, margin=0.5).equivalence
    assert found == {"margin": 0.5, "p_value": pytest.approx(0.98925, abs=5e-5), "equivalent": False}


def test_arms_are_equivalent_within_a_margin_just_beyond_the_90_percent_interval():
    low, high = compare_seeds(*SLEEP, alpha=0.1).interval
    assert low > 0
    assert compare_seeds(*SLEEP, margin=high).equivalence["p_value"] == pytest.approx(0.05)
    assert compare_seeds(*SLEEP, margin=high * 1.001).equivalence["equivalent"]
    assert not compare_seeds(*SLEEP, margin=high * 0.999).equivalence["equivalent"]
    assert not compare_seeds(*SLEEP, margin=high * 1.001, alpha=0.04).equivalence["equivalent"]


def test_no_margin_means_no_test_of_equivalence():
    assert compare_seeds(*SLEEP).equivalence is None


def spread(seeds, sd):
    """Return differences of seeds with exactly this standard deviation."""
    values = np.arange(seeds, dtype=float)
    return sd * values / values.std(ddof=1)


@pytest.mark.parametrize(
    ("sd", "effects", "decimals"),
    [(0.5, (1.63, 0.84, 0.58), 2), (0.8, (2.61, 1.35, 0.92), 2), (1.8, (5.9, 3.0, 2.1), 1)],
)
def test_minimum_detectable_effect_of_three_five_and_eight_seeds(sd, effects, decimals):
    found = [differing_by(spread(seeds, sd)).minimum_detectable_effect for seeds in (3, 5, 8)]
    assert [round(effect, decimals) for effect in found] == list(effects)


@pytest.mark.parametrize(("seeds", "alpha"), [(2, 0.05), (3, 0.05), (3, 0.0125), (4, 0.005), (8, 0.05)])
def test_minimum_detectable_effect_is_found_in_four_of_five_experiments(seeds, alpha):
    effect = compare_seeds(np.zeros(seeds), spread(seeds, 1), alpha=alpha).minimum_detectable_effect
    experiments = np.random.default_rng(0).normal(effect, 1, size=(40_000, seeds))
    assert np.mean(stats.ttest_1samp(experiments, 0, axis=1).pvalue < alpha) == pytest.approx(0.8, abs=0.01)


# Families


def test_effect_that_is_detectable_at_another_level_is_that_of_a_test_at_it():
    base, treated = np.zeros(6), spread(6, 1)
    strict = compare_seeds(base, treated, alpha=0.005).minimum_detectable_effect
    assert compare_seeds(base, treated, alpha=0.05).detectable_at(0.05 / 10) == pytest.approx(strict)


def test_holm_adjusts_step_by_step():
    # By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not fall below the one before it.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_of_one_or_none_changes_nothing_and_none_exceeds_1():
    assert holm({}) == {}
    assert holm({"a": 0.02}) == {"a": 0.02}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}


def test_test_that_could_not_be_made_stays_in_its_family():
    assert holm({"a": 0.02, "b": None}) == holm({"a": 0.02, "b": 1.0}) == {"a": 0.04, "b": 1}


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5])
def test_holm_refuses_what_is_no_probability(wrong):
    with pytest.raises(ValueError, match="p-value of b is"):
        holm({"a": 0.01, "b": wrong})
