"""Texts made at random from what the injection rule and byte-pair encoding are about."""

import random

SPACES = [" ", " ", " ", "  ", "   ", "\t", "\u00a0", "\u2009", "\u202f", "\u2003", "\u3000", "\n", "\r\n", ""]
SIGNS = ["*", "*", "×", "×", "x", "x", "X", "**", "^", "/", "%", "÷", "+", "-", "·", "=", "=", "==", "=?"]
NUMBERS = [*"0123456789", "10", "16", "105", "09", "2.5", ".5", "0.2", "1,000", "54", "12", "24"]
MARKS = [*".,$()<>_!", "<<", ">>", "'s", "'ll", "#### ", "\ufdd0", "\ufdd1", "\ufdd2"]
WORDS = [*"abxé５٣😀", "cm", "The", " apples", "is ", "日本", "👩‍👩‍👧", "e\u0301", "\ufeff", "\x00", "\U0010ffff"]
NAMES = ["<MUL_6_9_54>", "<MUL_1_1_1>", "<MUL_9_6_54>", "<MUL_6_9_55>", "<MUL_6_9_5", "<MUL_"]
SPECIAL_NAMES = ["<|endoftext|>", "<|reserved_50257|>", "<|reserved_50258|>"]


def _expression(rng: random.Random) -> str:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    gaps = rng.choices(["", " ", "  ", "\u00a0", "\u2009\u202f"], [4, 4, 1, 1, 1], k=4)
    text = f"{a}{gaps[0]}{rng.choice('**××x')}{gaps[1]}{b}"
    if rng.random() < 0.5:
        stated = a * b if rng.random() < 0.7 else rng.randint(0, 99)
        text += f"{gaps[2]}={gaps[3]}{stated}{rng.choice(['', '', '', '.', ',', '.0', ',000', 'cm'])}"
    return text


def fuzzed_text(rng: random.Random, pieces: int) -> str:
    """Mix expressions, near misses, names, special names and odd Unicode."""
    kinds = [SPACES, SIGNS, NUMBERS, MARKS, WORDS, NAMES + SPECIAL_NAMES]
    return "".join(
        _expression(rng) if rng.random() < 0.25 else rng.choice(rng.choices(kinds, [6, 6, 6, 3, 2, 1])[0])
        for _ in range(pieces)
    )
