from fractions import Fraction

import pytest

from training.data.numbers_in_words import decimal_text, decimals_of, numbers_in


@pytest.mark.parametrize(
    "number, decimals",
    [(3, 0), (Fraction(1, 8), 3), (Fraction(-7, 20), 2), (Fraction(1, 3), None), (Fraction(5, 6), None)],
)
def test_decimals_that_write_a_number_exactly(number, decimals):
    assert decimals_of(number) == decimals


@pytest.mark.parametrize(
    "number, decimals, text",
    [
        (144, None, "144"),
        (Fraction(7, 2), None, "3.5"),
        (Fraction(-1, 20), None, "-0.05"),
        (Fraction(10, 3), 2, "3.33"),
        (Fraction(2, 3), 2, "0.67"),
        (Fraction(-1, 300), 2, "0"),
        (Fraction(7, 2), 4, "3.5"),
        (Fraction(5, 2), 0, "2"),
    ],
)
def test_number_in_digits(number, decimals, text):
    assert decimal_text(number, decimals) == text


def test_number_without_end_has_to_be_rounded_by_somebody():
    with pytest.raises(ValueError, match="1/3 has no last decimal"):
        decimal_text(Fraction(1, 3))


@pytest.mark.parametrize(
    "text, number",
    [
        ("She has 1,200 beads", 1200),
        ("It costs $24.50", Fraction("24.5")),
        ("twenty-five birds", 25),
        ("Three hundred and five bees", 305),
        ("two thousand four hundred ants", 2400),
        ("a hundred years", 100),
        ("15% off", 15),
        ("the 30-day month", 30),
    ],
)
def test_numbers_of_a_question_are_found_in_digits_and_in_words(text, number):
    assert Fraction(number) in numbers_in(text)
