"""Write a product of several digits as one-digit products, from right to left, as one learns it at school.

The least significant digit comes first, so that every step needs only what is written already (Lee et al. 2023,
arXiv:2307.03381).
"""

from fractions import Fraction

from training.data.tinygsm.numbers_in_words import decimal_text, decimals_of

MOST_DIGITS = (4, 3)  # of the longer and the shorter factor, zeros at their ends not counted


def long_multiplication(a: Fraction | int, b: Fraction | int) -> tuple[str, list[tuple[str, Fraction | int]]] | None:
    """Return a line of partial products with their sums, and its equations as (text, stated number).

    Factors are positive decimals: their zeros and the point are set aside and put back at the end. None where there is
    nothing to take apart (two one-digit numbers as they are, or a single digit 1) or too much.

    >>> long_multiplication(24, 6)[0]
    '24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144'
    """
    if a <= 0 or b <= 0:
        return None
    (first, first_shift), (second, second_shift) = _significant(a), _significant(b)
    shorter, longer = sorted((len(str(first)), len(str(second))))
    is_a_fact = longer == 1 and (a, b) == (first, second)
    if is_a_fact or 1 in (first, second) or longer > MOST_DIGITS[0] or shorter > MOST_DIGITS[1]:
        return None
    equations: list[tuple[str, Fraction | int]] = []
    written: list[str] = []
    total = 0
    for place, digit in enumerate(reversed(str(second))):
        for inner_place, inner in enumerate(reversed(str(first))):
            if digit == "0" or inner == "0":
                continue
            partial, shift = int(inner) * int(digit), place + inner_place
            equation = f"{inner} * {digit} = {partial}"
            equations.append((equation, partial))
            written.append(f"{equation} -> {partial * 10**shift}" if shift else equation)
            partial *= 10**shift
            if total:
                equation = f"{total} + {partial} = {total + partial}"
                equations.append((equation, total + partial))
                written.append(equation)
            total += partial
    if first_shift + second_shift:
        written[-1] += f" -> {decimal_text(a * b)}"
    return f"{decimal_text(a)} * {decimal_text(b)}: {', '.join(written)}", equations


def _significant(number: Fraction | int) -> tuple[int, int]:
    """Return a decimal as a whole number without zeros at its end, and the power of ten to multiply it with."""
    shift = -decimals_of(number)
    whole = int(number * 10**-shift)
    while whole % 10 == 0:
        whole, shift = whole // 10, shift + 1
    return whole, shift
