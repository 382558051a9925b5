import re
from fractions import Fraction
from itertools import product

import pytest

from tokenization import count_facts
from tokenization.mul_facts import FACTS
from training.data.tinygsm.long_multiplication import long_multiplication
from training.evals.equations import find_equations

FOUR_BY_THREE = [(1234, 567), (9999, 999), (4080, 305), (1001, 101), (7000, 89), (99, 9999), (8675, 309)]
DECIMALS = [("0.15", 80), ("2.5", "0.4"), ("19.99", 3), ("0.07", "0.03"), (45000, "0.15"), ("1.25", 8), ("0.002", 7)]


def parts(a, b) -> tuple[list[str], Fraction]:
    """The pieces of the line between commas, and what it comes to."""
    line, _ = long_multiplication(Fraction(a), Fraction(b))
    pieces = line.split(": ", 1)[1].split(", ")
    return pieces, Fraction(re.split(" -> | = ", pieces[-1])[-1])


def recomputed(a: int, b: int) -> list[str]:
    """The line as one writes it by hand: digits from the right, zeros passed over, each partial product added."""
    pieces, total = [], 0
    for power, digit in enumerate(map(int, str(b)[::-1])):
        for inner_power, inner in enumerate(map(int, str(a)[::-1])):
            if digit and inner:
                shifted = inner * digit * 10 ** (power + inner_power)
                arrow = f" -> {shifted}" if power + inner_power else ""
                pieces.append(f"{inner} * {digit} = {inner * digit}{arrow}")
                if total:
                    pieces.append(f"{total} + {shifted} = {total + shifted}")
                total += shifted
    return pieces


def test_every_product_below_a_hundred_comes_out_right():
    for a, b in product(range(1, 100), repeat=2):
        if long_multiplication(a, b):
            assert parts(a, b)[1] == a * b


def test_only_a_fact_and_a_factor_with_the_digit_one_are_not_taken_apart():
    untouched = {(a, b) for a, b in product(range(1, 100), repeat=2) if long_multiplication(a, b) is None}
    assert untouched == {(a, b) for a, b in product(range(1, 100), repeat=2) if max(a, b) < 10 or {a, b} & {1, 10}}


@pytest.mark.parametrize(
    ("a", "b"), [(24, 6), (47, 98), (304, 52), (1234, 567), (9999, 999), (4008, 305), (1001, 101)]
)
def test_digits_are_multiplied_from_right_to_left_and_added_at_once(a, b):
    pieces, _ = parts(a, b)
    assert pieces == recomputed(a, b)


@pytest.mark.parametrize(("a", "b"), FOUR_BY_THREE + DECIMALS)
def test_long_factors_decimals_and_zeros_come_out_right(a, b):
    assert parts(a, b)[1] == Fraction(a) * Fraction(b)


@pytest.mark.parametrize(("a", "b"), FOUR_BY_THREE + DECIMALS + [(24, 6), (30, 40), (77, 77)])
def test_each_partial_product_is_a_fact_in_the_text(a, b):
    line, equations = long_multiplication(Fraction(a), Fraction(b))
    by_digit = [re.match(r"(\d) \* (\d) =", text) for text, _ in equations if "*" in text]
    counts = count_facts(line)
    expected = [sorted((int(match[1]), int(match[2]))) for match in by_digit]
    assert counts.sum() == len(expected) > 0
    for fact, count in zip(FACTS, counts, strict=True):
        assert count == expected.count(sorted((fact.a, fact.b)))


@pytest.mark.parametrize(("a", "b"), FOUR_BY_THREE + DECIMALS + [(24, 6), (30, 40)])
def test_the_reader_finds_the_equations_that_are_returned(a, b):
    line, equations = long_multiplication(Fraction(a), Fraction(b))
    found = find_equations(line)
    assert all(one.is_true for one in found)
    assert [one.stated for one in found] == [stated for _, stated in equations]


def test_line_begins_with_the_product_and_ends_with_the_point_put_back():
    line, _ = long_multiplication(Fraction("0.15"), 80)
    assert line == "0.15 * 80: 5 * 8 = 40, 1 * 8 = 8 -> 80, 40 + 80 = 120 -> 12"


@pytest.mark.parametrize(("a", "b"), [(0, 24), (24, 0), (-24, 6), (24, -6), (Fraction("-0.5"), 12)])
def test_zero_and_negative_factors_are_left_alone(a, b):
    assert long_multiplication(a, b) is None


@pytest.mark.parametrize(("a", "b"), [(12345, 6), (1234, 5678), (6, 12345), (Fraction("1.2345"), 6)])
def test_longer_factors_are_left_alone(a, b):
    assert long_multiplication(a, b) is None


@pytest.mark.parametrize("power", [10, 100, 1000, Fraction("0.1"), Fraction("0.01")])
def test_powers_of_ten_are_left_alone(power):
    assert long_multiplication(power, 24) is None


def test_zeros_at_the_end_do_not_count_as_digits():
    assert long_multiplication(123400000, 6) is not None
