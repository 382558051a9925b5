from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.tinygsm.numbers_in_words import decimal_text, decimals_of, numbers_in

UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
UNITS += "seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """The usual English words of a number below a million."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{UNITS[number % 10]}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = f" {in_words(number % size)}" if number % size else ""
    return f"{in_words(number // size)} {name}{rest}"


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read(number):
    assert number in numbers_in(f"They sold {in_words(number)} tickets.")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,200 a month", 1200),
        ("15% of them", 15),
        ("at 3:45", 45),
        ("a 30-day trial", 30),
        ("on the 20th of May", 20),
        ("his fourteenth year", 14),
        ("her twenty-fifth birthday", 25),
        ("Twenty Five", 25),
        ("one hundred and twenty cows", 120),
        ("three hundred, and forty", 340),
        ("two million three hundred thousand", 2_300_000),
        ("hundreds of people", 100),
        ("1.5 million people", 1_500_000),
        ("$2.5k", 2500),
        ("a 300K house", 300_000),
        ("3 billion", 3_000_000_000),
        ("half a million", 500_000),
        ("half a thousand", 500),
        ("1/3 of it", 3),
        ("he scored 18/20", 18),
        ("he scored 18/20", 20),
        ("$0.45 each", Fraction("0.45")),
        ("it is -165", 165),
        ("€80", 80),
        ("two score and ten", 20),
        ("0.1 of it", Fraction(1, 10)),
    ],
)
def test_number_of_a_question_is_found(text, number):
    assert number in numbers_in(text)


@pytest.mark.parametrize("text", ["", "nothing", "often", "someone", "weight", "tenant", "x2", "attention"])
def test_words_that_only_hold_a_number_word_are_no_number(text):
    assert numbers_in(text) == set()


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "9" * 5000 + "k", "9" * 5000 + "/" + "9" * 5000, "1/0", "\ud800 five \0", "٣٤", "1e999 million"],
)
def test_hostile_text_is_read(text):
    assert all(number >= 0 for number in numbers_in(text))


@settings(max_examples=200)
@given(st.text(st.sampled_from("0123456789.,/-$%k hundredmilonfa\ud800\0"), max_size=60))
def test_any_text_is_read(text):
    assert isinstance(numbers_in(text), set)


@given(st.fractions(max_denominator=10**6))
def test_count_of_decimals_is_the_smallest_that_writes_a_number(number):
    decimals = decimals_of(number)
    if decimals is None:
        assert all((number * 10**places).denominator != 1 for places in range(30))
    else:
        assert (number * 10**decimals).denominator == 1
        assert decimals == 0 or (number * 10 ** (decimals - 1)).denominator != 1


@given(st.integers(-(10**12), 10**12), st.integers(0, 8))
def test_text_of_a_decimal_reads_back(digits, places):
    number = Fraction(digits, 10**places)
    text = decimal_text(number)
    assert Fraction(text) == number
    assert text == "0" or "." not in text or not text.endswith("0")


@pytest.mark.parametrize(
    ("number", "decimals", "text"),
    [
        (Fraction(10, 3), 2, "3.33"),
        (Fraction(-10, 3), 2, "-3.33"),
        (Fraction(1, 3000), 2, "0"),
        (Fraction(-1, 3000), 2, "0"),
        (Fraction(1, 3000), 5, "0.00033"),
        (Fraction(5, 2), 0, "2"),
        (Fraction(7, 2), 0, "4"),
        (Fraction(2999, 1000), 2, "3"),
        (Fraction(1, 8), 5, "0.125"),
    ],
)
def test_decimal_is_rounded_where_asked(number, decimals, text):
    assert decimal_text(number, decimals) == text


def test_number_without_end_needs_a_place_to_stop():
    with pytest.raises(ValueError, match="no last decimal"):
        decimal_text(Fraction(1, 3))
