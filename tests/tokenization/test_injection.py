"""The rule case by case. That its three forms agree is the business of test_injection_forms.py."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization import count_facts, inject
from tokenization.mul_facts import FACT_BY_FACTORS, FACTS

F = "<MUL_6_9_54>"
LEFT = None  # stands for the text itself

# (text, weak, strict)
CASES = [
    # Spellings of one fact.
    ("6*9", F, LEFT),
    ("9*6", F, LEFT),
    ("6 * 9", F, LEFT),
    ("6 × 9", F, LEFT),
    ("6x9", F, LEFT),
    ("6 x 9", F, LEFT),
    ("6  *  9", F, LEFT),
    ("6* 9", F, LEFT),
    ("6\t*\u00a09", F, LEFT),
    ("6\u2009×\u202f9", F, LEFT),
    # A right result is absorbed.
    ("6*9=54", F, F),
    ("9x6 = 54", F, F),
    ("6 * 9 =  54", F, F),
    ("6*9=54.", F + ".", F + "."),
    ("6*9=54, then", F + ", then", F + ", then"),
    ("6*9=54cm", F + "cm", F + "cm"),
    ("6*9=54+1", F + "+1", F + "+1"),
    ("1*1=1", "<MUL_1_1_1>", "<MUL_1_1_1>"),
    # A wrong result, or another literal than the exact one, leaves all of it.
    ("6*9=55", LEFT, LEFT),
    ("6*9=540", LEFT, LEFT),
    ("6*9=54.5", LEFT, LEFT),
    ("6*9=54.0", LEFT, LEFT),
    ("6*9=54,000", LEFT, LEFT),
    ("6*9=054", LEFT, LEFT),
    ("6*9=5", LEFT, LEFT),
    ("1+6*9=55", LEFT, LEFT),
    # Three blanks are the layout of a table.
    ("6   * 9", LEFT, LEFT),
    ("6 *   9", LEFT, LEFT),
    ("6*9   =54", F + "   =54", LEFT),
    ("6*9=   54", F + "=   54", LEFT),
    ("6*9=   55", F + "=   55", LEFT),
    # No number states a result here.
    ("6*9==54", F + "==54", LEFT),
    ("6*9=?", F + "=?", LEFT),
    ("6*9=x", F + "=x", LEFT),
    ("6*9=$54", F + "=$54", LEFT),
    ("6*9=-54", F + "=-54", LEFT),
    ("54=6*9", "54=" + F, LEFT),
    # A number after the sign of equality that is itself a factor is not a result.
    ("6*6=4*9", "<MUL_6_6_36>=<MUL_4_9_36>", LEFT),
    ("6*9=54*2", F + "=54*2", LEFT),
    ("6*9=54 x 2", F + "=54 x 2", LEFT),
    ("6*9=55*2", F + "=55*2", LEFT),
    ("2*3=3*2=6", "<MUL_2_3_6>=<MUL_2_3_6>", "2*3=<MUL_2_3_6>"),
    # Only whole one-digit numbers from 1 to 9.
    ("16*9", LEFT, LEFT),
    ("6*95", LEFT, LEFT),
    ("106*9", LEFT, LEFT),
    ("6*905", LEFT, LEFT),
    ("6*09", LEFT, LEFT),
    ("10*5", LEFT, LEFT),
    ("0*5", LEFT, LEFT),
    ("5*0", LEFT, LEFT),
    ("0x9", LEFT, LEFT),
    ("6.5*9", LEFT, LEFT),
    (".5*9", LEFT, LEFT),
    ("6*9.5", LEFT, LEFT),
    ("6*2.5=15", LEFT, LEFT),
    ("1,6*9", LEFT, LEFT),
    ("6*9,000", LEFT, LEFT),
    ("7*4,000=28,000", LEFT, LEFT),
    ("6*9,3*4", LEFT, LEFT),
    ("6*9, 3*4", F + ", <MUL_3_4_12>", LEFT),
    ("6*9.", F + ".", LEFT),
    # Identifiers, algebra, units.
    ("a6*9", LEFT, LEFT),
    ("_6*9", LEFT, LEFT),
    ("6*9b", LEFT, LEFT),
    ("6*9cm", LEFT, LEFT),
    ("6*9_", LEFT, LEFT),
    ("2x3y", LEFT, LEFT),
    ("bt8x8", LEFT, LEFT),
    ("6*n", LEFT, LEFT),
    # Left to right: the first pair of a chain keeps its value, a later one would not.
    ("2*3*4", "<MUL_2_3_6>*4", LEFT),
    ("2 x 3 x 4", "<MUL_2_3_6> x 4", LEFT),
    ("2 x 3 x 4*5", "<MUL_2_3_6> x 4*5", LEFT),
    ("2*3*4=24", "<MUL_2_3_6>*4=24", LEFT),
    ("3x3x3", LEFT, LEFT),
    ("15*2*3", LEFT, LEFT),
    ("15 x 2 x 3", LEFT, LEFT),
    ("15  x  2*3", LEFT, LEFT),
    ("15   x 2*3", "15   x <MUL_2_3_6>", LEFT),
    (F + " x 4*5", LEFT, LEFT),
    # Beside something that binds first, or tighter.
    ("8/2*3", LEFT, LEFT),
    ("8 / 2*3", LEFT, LEFT),
    ("8/  2*3", LEFT, LEFT),
    ("8/   2*3", "8/   <MUL_2_3_6>", LEFT),
    ("8÷2*3", LEFT, LEFT),
    ("2**3*4", LEFT, LEFT),
    ("2^3*4", LEFT, LEFT),
    ("5%2*3", LEFT, LEFT),
    ("2**3", LEFT, LEFT),
    ("2*3**2", LEFT, LEFT),
    ("2*3 ** 2", LEFT, LEFT),
    ("2*3^2", LEFT, LEFT),
    ("6*9%", LEFT, LEFT),
    ("*6*9*", LEFT, LEFT),
    ("**6*9**", LEFT, LEFT),
    ("/6x9/", LEFT, LEFT),
    # Beside something that binds later.
    ("6*9/2", F + "/2", LEFT),
    ("6*9+1=55", F + "+1=55", LEFT),
    ("-6*9", "-" + F, LEFT),
    ("100-6*9=46", LEFT, LEFT),
    ("100-6*9", "100-" + F, LEFT),
    ("$6*9", "$" + F, LEFT),
    ("(6*9)", f"({F})", LEFT),
    ("<<6*9=54>>54", f"<<{F}>>54", f"<<{F}>>54"),
    # Lines.
    ("6\n* 9", LEFT, LEFT),
    ("6 *\n9", LEFT, LEFT),
    ("6*9\n=54", F + "\n=54", LEFT),
    ("6*9=\n54", F + "=\n54", LEFT),
    ("6*9\n6*9", f"{F}\n{F}", LEFT),
    ("8*\n2*3", "8*\n<MUL_2_3_6>", LEFT),
    # Dimensions in prose.
    ("img-6x9.png", f"img-{F}.png", LEFT),
    ("a 4 x 6 photo", "a <MUL_4_6_24> photo", LEFT),
    ("4x4", "<MUL_4_4_16>", LEFT),
    ("3x3 matrix", "<MUL_3_3_9> matrix", LEFT),
    # Other signs, other digits, other spellings.
    ("6X9", LEFT, LEFT),
    ("６*９", LEFT, LEFT),
    ("٦*٩", LEFT, LEFT),
    ("6·9", LEFT, LEFT),
    ("6⋅9", LEFT, LEFT),
    ("6✕9", LEFT, LEFT),
    ("6∗9", LEFT, LEFT),
    (r"6\times 9", LEFT, LEFT),
    (r"6\cdot9", LEFT, LEFT),
    ("6(9)", LEFT, LEFT),
    ("6 times 9", LEFT, LEFT),
    ("6*$9", LEFT, LEFT),
    ("6\u2003*\u30009", LEFT, LEFT),
    # Names that already stand there.
    (F, LEFT, LEFT),
    ("<MUL_9_6_54>", LEFT, LEFT),
    ("<MUL_6_9_55>", LEFT, LEFT),
    (F + "=54", LEFT, LEFT),
    (f"6*9{F}", F + F, LEFT),
    (F + "6*9", F + F, LEFT),
    # Around special tokens, which are text here.
    ("1<|endoftext|>6*9", "1<|endoftext|>" + F, LEFT),
    ("", LEFT, LEFT),
]


@pytest.mark.parametrize(("text", "expected"), [(text, weak) for text, weak, _ in CASES])
def test_weak_mode_decides_the_case(text, expected):
    assert inject(text) == (text if expected is LEFT else expected)


@pytest.mark.parametrize(("text", "expected"), [(text, strict) for text, _, strict in CASES])
def test_strict_mode_decides_the_case(text, expected):
    assert inject(text, "strict") == (text if expected is LEFT else expected)


@pytest.mark.parametrize(("a", "b"), FACT_BY_FACTORS)
def test_every_ordered_pair_becomes_its_fact(a, b):
    name = f"<MUL_{min(a, b)}_{max(a, b)}_{a * b}>"
    assert inject(f"so {a} * {b} = {a * b}.") == inject(f"so {a}×{b}.") == f"so {name}."


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ("*", f"{F} 6×9 6x9"),
        ("×", f"6*9 {F} 6x9"),
        ("x", f"6*9 6×9 {F}"),
        ("*×", f"{F} {F} 6x9"),
        ("x*", f"{F} 6×9 {F}"),
        ("x×*", f"{F} {F} {F}"),
    ],
)
def test_only_the_chosen_operators_are_rewritten(operators, expected):
    assert inject("6*9 6×9 6x9", operators=operators) == expected


@pytest.mark.parametrize("text", ["2 x 3*4", "15×2*3", "6*9=55"])
def test_operators_that_are_not_chosen_keep_their_meaning(text):
    assert inject(text, operators="*") == text


def test_a_factor_by_an_operator_that_is_not_chosen_is_no_result():
    assert inject("6*6=4x9", operators="*") == "<MUL_6_6_36>=4x9"


@pytest.mark.parametrize("operators", ["", "+", "*+", "**", "*x×x", "X", None, ("*",)])
def test_operators_that_do_not_exist_are_refused(operators):
    with pytest.raises(ValueError, match=re.escape(f"not {operators!r}")):
        inject("6*9", operators=operators)


@pytest.mark.parametrize("mode", ["", "Weak", "none", None])
@pytest.mark.parametrize("function", [inject, count_facts])
def test_a_mode_that_does_not_exist_is_refused(function, mode):
    with pytest.raises(ValueError, match=f"weak, strict, not {mode!r}"):
        function("6*9", mode)


PIECES = st.sampled_from([*"0123456789*×x=+-/^%., \n\u00a0\u2009ab<>_$", "6*9", "=54", F, "<MUL_", " x ", "**"])


@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from(["weak", "strict"]))
def test_a_second_pass_finds_nothing_more(text, mode):
    once = inject(text, mode)
    assert inject(once, mode) == once


@given(st.lists(PIECES, max_size=40).map("".join))
def test_strict_mode_rewrites_nothing_that_weak_mode_leaves(text):
    assert (count_facts(text, "strict") <= count_facts(text, "weak")).all()


@given(st.text())
def test_text_without_a_sign_is_returned_as_it_is(text):
    text = re.sub("[*×x]", "", text)
    assert inject(text) is text


def test_counts_are_those_of_the_names_in_the_injected_text(word_problems):
    for text in word_problems:
        assert count_facts(text).tolist() == [inject(text).count(fact.name) for fact in FACTS]


def test_names_that_stand_in_the_text_are_counted():
    counts = count_facts(f"{F}, 9*6, 2x2 and <MUL_9_6_54>")
    assert {FACTS[i].name: counts[i] for i in np.flatnonzero(counts)} == {F: 2, "<MUL_2_2_4>": 1}


@pytest.mark.parametrize(("mode", "total"), [("weak", 2), ("strict", 1)])
def test_counting_follows_the_mode(mode, total):
    assert count_facts("6*9 and 6*9=54", mode).sum() == total


def test_the_rule_loads_without_transformers():
    program = "import sys, tokenization; tokenization.inject('6*9'); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
