import itertools

import pytest

from training.evals.sampling import majority_at_k, pass_at_k


@pytest.mark.parametrize("n, correct, k", [(5, 2, 1), (5, 2, 3), (5, 0, 2), (5, 5, 2), (6, 1, 6), (4, 3, 2)])
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_correct_answer(n, correct, k):
    draws = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_one_is_the_share_of_correct_answers():
    assert pass_at_k(1000, 37, 1) == pytest.approx(0.037)


@pytest.mark.parametrize("n, correct, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_impossible_counts_are_refused(n, correct, k):
    with pytest.raises(ValueError, match="must lie between"):
        pass_at_k(n, correct, k)


def test_most_frequent_answer_is_the_groups_answer():
    assert majority_at_k([7, 18, 18, None, 18.0], 18, 5) == 1
    assert majority_at_k([7, 18, 7, None, 18, 7], 18, 6) == 0


def test_tie_goes_to_the_answer_seen_first():
    assert majority_at_k([18, 7, 7, 18], 18, 4) == 1
    assert majority_at_k([7, 18, 18, 7], 18, 4) == 0


def test_missing_answers_never_win():
    assert majority_at_k([None, None, None, 18], 18, 4) == 1
    assert majority_at_k([None, None], 18, 2) == 0


def test_majority_is_averaged_over_disjoint_groups_and_the_rest_is_left_out():
    answers = [18, 18, 1, 1, 18, None, 18]
    assert majority_at_k(answers, 18, 2) == pytest.approx(2 / 3)
    assert majority_at_k(answers, 18, 1) == pytest.approx(4 / 7)


@pytest.mark.parametrize("k", [0, 3])
def test_majority_of_more_answers_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match="must lie between 1 and the number of answers"):
        majority_at_k([1, 2], 1, k)
