import re
from fractions import Fraction
from itertools import pairwise

import pytest

from tokenization import count_facts
from training.data.long_multiplication import long_multiplication


def checked(a, b) -> list[str]:
    """Return the equations of a product, each recomputed here and found in the line."""
    line, equations = long_multiplication(a, b)
    for text, stated in equations:
        left, sign, right = re.fullmatch(r"(\d+) ([*+]) (\d+) = \d+", text).groups()
        assert stated == (int(left) * int(right) if sign == "*" else int(left) + int(right))
        assert text.endswith(f" = {stated}") and text in line
    return [text for text, _ in equations]


def test_all_products_of_two_digits_are_written_in_facts_and_sums():
    for a in range(1, 100):
        for b in range(1, 100):
            if long_multiplication(a, b) is None:
                continue
            line, _ = long_multiplication(a, b)
            equations = checked(a, b)
            products = [text for text in equations if "*" in text]
            assert all(re.match(r"[1-9] \* [1-9] =", text) for text in products)
            assert count_facts(line).sum() == len(products)
            assert len(equations) - len(products) == len(products) - 1
            assert line.endswith((f"= {a * b}", f"-> {a * b}"))


@pytest.mark.parametrize("a, b", [(6, 9), (1, 24), (24, 10), (12345, 6), (1234, 5678), (0, 24), (-24, 6)])
def test_what_is_one_fact_already_or_too_long_is_left_alone(a, b):
    assert long_multiplication(a, b) is None


def test_digits_come_from_right_to_left():
    line, _ = long_multiplication(1234, 567)
    products = [tuple(map(int, found)) for found in re.findall(r"(\d) \* (\d) =", line)]
    assert products == [(d, m) for m in (7, 6, 5) for d in (4, 3, 2, 1)]


def test_running_sum_begins_where_the_last_one_ended():
    sums = [text for text in checked(987, 654) if "+" in text]
    for before, after in pairwise(sums):
        assert after.split(" + ")[0] == before.split(" = ")[1]


def test_zero_digits_are_skipped():
    assert [text for text in checked(2004, 30) if "*" in text] == ["4 * 3 = 12", "2 * 3 = 6"]


@pytest.mark.parametrize(
    "a, b, end", [(Fraction("0.15"), 80, "-> 12"), (Fraction("2.5"), Fraction("0.4"), "-> 1"), (300, 20, "-> 6000")]
)
def test_points_and_ends_of_zeros_are_put_back_last(a, b, end):
    assert checked(a, b)
    assert long_multiplication(a, b)[0].endswith(end)
