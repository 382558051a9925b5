import re
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenization import inject
from training.evals.answers import canonical, reply
from training.evals.calculations import MAX_OPERANDS
from training.evals.equations import MAX_NESTING, Equation, classify, find_equations

FACT = "<MUL_6_9_54>"

PIECES = [
    *("6*9", "6 x 9 = 54", "9×6=54", "6*9=55", "2*3*4=24", "(6*9)/2=27", "10-2*3", "$6*9", FACT, "<MUL_2_3_6>"),
    *("12*30=360", "10 - 3 = 8", "1,234.5", "1/3=0.33", "<<", ">>", "<<2+3=5>>5", "50%", "1/2", "=", " = ", "**"),
    *("####", "\nUser:", "\n", "\n- ", " ", " times ", " of ", " and ", "x", "2x", " apples ", "million", "\\"),
    *(*"0123456789+-*/()=×÷−–.,:$€%^²√!", "٣", "\ud800", "\0", "\u00a0"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
fuzzed = settings(deadline=None, max_examples=400)


def found(text: str) -> list[tuple[str, bool]]:
    return [(equation.text, equation.is_true) for equation in find_equations(text)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("6*9=54", "fact", 54),
        ("7 * 8 = 56", "fact", 56),
        ("1*5=5", "fact", 5),
        ("12*3=36", "product", 36),
        ("0*5=0", "product", 0),
        ("2*3*4=24", "product", 24),
        ("50%*20=10", "product", 10),
        ("-6*90=-540", "product", -540),
        ("12 x 3 = 36", "product", 36),
        ("$12x$3=$36", "product", 36),
        ("12×3=36", "product", 36),
        (".5*4=2", "product", 2),
        ("1.5 * 4 = 6.0", "product", 6),
        ("20 * 0.15 = $3", "product", 3),
        ("£5*1,000=£5,000", "product", 5000),
        ("1,234+1=1,235", "sum", 1235),
        ("$1.25 + $1.25 = $2.50", "sum", Fraction(5, 2)),
        ("0.1+0.2=0.3", "sum", Fraction(3, 10)),
        ("-3+5=2", "sum", 2),
        ("16 - 3 - 4 = 9", "difference", 9),
        ("50−8=42", "difference", 42),
        ("5-10=-5", "difference", -5),
        ("5-10 = - 5", "difference", -5),
        ("5-10=-$5", "difference", -5),
        ("5-10=$-5", "difference", -5),
        ("10 - -5 = 15", "difference", 15),
        ("36÷4=9", "quotient", 9),
        ("7/2=3.5", "quotient", Fraction(7, 2)),
        ("12/3/2=2", "quotient", 2),
        ("20/100=20%", "quotient", Fraction(1, 5)),
        ("2+6*90=542", "mixed", 542),
        ("10-4/2*3+1=5", "mixed", 5),
        ("(2+3)*4 = 20", "mixed", 20),
        ("((2+3)*(4-1))/5=3", "mixed", 3),
        ("-(2+3)*2=-10", "mixed", -10),
        ("20*(1+50%)=30", "mixed", 30),
        ("12+3==15", "sum", 15),
        ("**12+3=15**", "sum", 15),
    ],
)
def test_equation_is_recomputed_exactly(text, kind, value):
    (equation,) = find_equations(text)
    assert (equation.kind, equation.value, equation.stated, equation.is_true) == (kind, value, value, True)
    assert equation.left == equation.text.rsplit("=", 1)[0].rstrip("= ")


@pytest.mark.parametrize(
    "text",
    ["6*9=55", "12*3=37", "2+3*4=20", "0.1+0.2=0.30001", "50*20%=1000", "7-10=3", "2*3*4=12", "5/0=0", "0/0=1"],
)
def test_false_equation_is_told(text):
    (equation,) = find_equations(f"He has {text} left.")
    assert not equation.is_true


def test_division_by_zero_has_no_value():
    (equation,) = find_equations("3+5/(2-2)=3")
    assert equation.value is None and not equation.is_true


@pytest.mark.parametrize(
    ("text", "is_true"),
    [
        ("10/3=3.33", True),
        ("10/3=3.3", True),
        ("20/3=6.67", True),
        ("1/8=0.13", True),
        ("1/8=0.12", True),
        ("20/3=6.66", False),
        ("10/3=3.34", False),
        ("10/3=3", False),
        ("1/3=33.33%", True),
        ("1/3=33%", False),
        ("2*1.66=3.3", False),
        ("1/3*2=0.67", True),
    ],
)
def test_only_quotients_may_be_rounded_to_the_decimals_that_are_stated(text, is_true):
    assert found(text) == [(text, is_true)]


def test_percent_sign_behind_a_result_in_percent_is_a_unit():
    assert found("60/150*100 = 40%") == [("60/150*100 = 40%", True)]
    assert found("60/150*100 = 41%") == [("60/150*100 = 41%", False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 6*9=54 and 60-54=7.", [("6*9=54", True), ("60-54=7", False)]),
        ("10+5=15=15", [("10+5=15", True)]),
        ("4*25=100=10*10", [("4*25=100", True)]),
        ("2*27 = 54/2 = 27", [("54/2 = 27", True)]),
        ("10+5=15+3=18", [("15+3=18", True)]),
        ("1/4+1/4=2/4=0.5", [("2/4=0.5", True)]),
        ("x = 30+2 = 32", [("30+2 = 32", True)]),
        ("12+3=15 20+4=24", [("12+3=15", True), ("20+4=24", True)]),
        ("12+3=15 (20+4=24)", [("12+3=15", True), ("20+4=24", True)]),
        ("6*9=54 7*8=56", [("6*9=54", True), ("7*8=56", True)]),
        ("12+3=15\n20+4=24", [("12+3=15", True), ("20+4=24", True)]),
        ("1. 12+3=15", [("12+3=15", True)]),
        ("1) 12+3=15", [("12+3=15", True)]),
        ("a\n- 12+3=15", [("12+3=15", True)]),
        ("a\n* 12+3=15", [("12+3=15", True)]),
        ("(12+3=15", [("12+3=15", True)]),
        ("10 - 3 = 7 - that's all", [("10 - 3 = 7", True)]),
        ("12+3=15 apples", [("12+3=15", True)]),
        ("a total of 12+3=15", [("12+3=15", True)]),
        ("12+3=15?", [("12+3=15", True)]),
    ],
)
def test_each_expression_with_a_number_behind_it_counts_once(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("5 = 5", "-5=-5", "(5)=5", "x = 5", "= 5", "54", "12+3", "12+3=", "=12+3", "12+3 = = 15", "+5=5", "50%=50%"),
        *("12+3=x", "12+3=2x", "12+3=30 + x", "12+3=24/Y", "2x+3=7", "x2*30=60", "x-5+3=8", "covid-19+3=22"),
        *("12+3>=15", "12+3<=15", "12+3!=15", "12+3 ≈ 15", "12+3=>15", "12+3 = about 15"),
        *("5 times 3+2=17", "half of 30+10=25", "50% of 20+5=15", "1/2 of 20+4=14", "twice 3+20=23", "5 over 3+2=7"),
        *("3 apples + 2 = 5", "apples + 3*20 = 60", "20 dollars * 2 = 40", "is -3+5=2", "3 apples -5+8=3"),
        *("sqrt(16)+30=34", "√9+10=13", "2^2*30=120", "2**3+1=9", "2 ** 3+1=9", "5²+30=55", "5*5=5²", "10%3=1"),
        *("2(3+4)=14", "(3+4)(1+1)=14", "3(5)=15", "5\\times 3+2=17", "\\frac{1}{2}*40=20"),
        *("1,2,3+4=7", "3:30+20=50", "1.2.3+4=7", "1e3*2=2000", "٣+4=7", "12,34+1=13"),
        *("5/2=2 1/2", "5/3 = 1 and 2/3", "2 1/2*40=100", "17/5=3 remainder 2", "50/ 1/2=100"),
        *("5*200=1 thousand", "50*20=1k", "9*2000=18 000", "1 000*2=2000", "3*40=5!"),
        "1" * 31 + "+1=2",
        "12+3=" + "1" * 31,
    ],
)
def test_what_is_not_understood_is_no_equation(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*9=<<6*9=54>>54", [("6*9=54", True)]),
        ("there are <<6*9=54>>54", [("6*9=54", True)]),
        ("60-8=$<<60-8=52>>52 left", [("60-8=52", True)]),
        ("$9 * 20 = $<<9*20=180>>180", [("9*20=180", True)]),
        ("60-8=<<60-8=51>>51", [("60-8=51", False)]),
        ("60-8<<60-8=52>>=52", [("60-8=52", True)]),
        ("100*50% = <<100*50*.01=50>>50", [("100*50*.01=50", True)]),
        ("30+4=<<30+4=34>>34+2=<<34+2=36>>36", [("30+4=34", True), ("34+2=36", True)]),
        ("60-8=<<60-8=52>>53", [("60-8=52", True), ("60-8=<<60-8=52>>53", False)]),
        ("100*50=<<50*1=50>>50", [("50*1=50", True), ("100*50=<<50*1=50>>50", False)]),
        ("100-60=<<100-60=40>>40%", [("100-60=40", True)]),
        ("60-8=<<+52=52>>52", [("60-8=<<+52=52>>52", True)]),
        ("60-8=<<52>>52", [("60-8=<<52>>52", True)]),
        ("60-8=<<60-8=52", [("60-8=52", True)]),
        ("60-8=52>>52", [("60-8=52", True)]),
        ("<<30+4=34>>34*2=68", [("30+4=34", True), ("34*2=68", True)]),
    ],
)
def test_calculator_note_and_the_calculation_that_it_repeats_count_once(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*9 eggs", [("6*9=54", True)]),
        (FACT, [("6*9=54", True)]),
        ("(6*9)/2=27", [("6*9=54", True), ("(6*9=54)/2=27", True)]),
        ("(6*9)/2=28", [("6*9=54", True), ("(6*9=54)/2=28", False)]),
        ("100-6*9=46", [("100-6*9=46", True)]),
        ("100-6*9=45", [("100-6*9=45", False)]),
        ("10-6*9=54", []),
        ("$2 + $6*9 are paid", []),
        ("$2 + $6*9 = $56", [("$2 + $6*9 = $56", True)]),
        ("$2 + $6*9 = $54", [("$2 + $6*9 = $54", False)]),
        (f"2*{FACT}=108", [("2*6*9=108", True)]),
    ],
)
def test_a_fact_states_its_product_unless_a_larger_calculation_takes_it(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize("text", ["0+5=5", "5+0=5", "5-0=5", "1*5=5", "5*1=5", "5/1=5", "5*0=0", "5*1*1+0=5", "0/5=0"])
def test_equation_that_does_nothing_is_trivial(text):
    assert [equation.is_trivial for equation in find_equations(text)] == [True]


@pytest.mark.parametrize("text", ["1+1=2", "10-1=9", "1/2=0.5", "0+5+3=8", "(2+3)*1=5", "6*9=54", "1-1=0"])
def test_equation_that_does_something_is_not_trivial(text):
    assert [equation.is_trivial for equation in find_equations(text)] == [False]


def test_longest_expression_and_deepest_nesting_are_bounded():
    assert found("+".join(["10"] * MAX_OPERANDS) + f"={10 * MAX_OPERANDS}")
    assert not found("+".join(["10"] * (MAX_OPERANDS + 1)) + f"={10 * (MAX_OPERANDS + 1)}")
    assert found("(" * MAX_NESTING + "10" + ")" * MAX_NESTING + "+1=11")
    assert not found("(" * (MAX_NESTING + 1) + "10" + ")" * (MAX_NESTING + 1) + "+1=11")


@given(texts)
@example("$2 + $6*9=54")
@fuzzed
def test_reply_and_its_injected_twin_state_the_same(text):
    twin = inject(text)
    assert find_equations(twin) == find_equations(text)
    assert classify(twin, False, True) == classify(text, False, True)


@given(st.one_of(texts, st.text(max_size=40)))
@fuzzed
def test_equation_stands_at_its_offsets(text):
    whole = canonical(reply(text))
    equations = find_equations(text)
    assert [equation.end for equation in equations] == sorted(equation.end for equation in equations)
    for equation in equations:
        assert isinstance(equation, Equation)
        assert whole[equation.start : equation.end] == equation.text
        assert equation.text.startswith(equation.left) and "=" in equation.text[len(equation.left) :]


# No number of one digit, so that nothing is a fact and the text stays as it is.
numbers = st.integers(10, 99).map(str)
expressions = st.recursive(
    numbers,
    lambda part: st.lists(st.tuples(st.sampled_from("+-*/"), part), min_size=1, max_size=3).map(
        lambda steps: "(" + "".join(operator + operand for operator, operand in steps)[1:] + ")"
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from("+-*/"), expressions), min_size=2, max_size=4))
@settings(deadline=None, max_examples=200)
def test_value_is_that_of_exact_arithmetic(steps):
    left = "".join(operator + operand for operator, operand in steps)[1:]
    try:
        value = eval(re.sub("[0-9]+", r"Fraction(\g<0>)", left), {"Fraction": Fraction})
    except ZeroDivisionError:
        value = None
    (equation,) = find_equations(f"{left}=1234567")
    assert (equation.left, equation.value, equation.is_true) == (left, value, False)


@pytest.mark.parametrize(
    "unit",
    [
        *("1", "1+", "12*", "1=", "1+1=", "12+13=25 ", "(", "(1+", "1)+", "<<", ">>", "<<1+", "<<1+1=2>>2", "1%", " "),
        *("6*9=54 ", FACT, "$6*9+", "1 2 ", "$ 1 + ", "#", "٣", "\ud800", "a1", "1a", "9" * 29 + "/1+", "x", "1x"),
    ],
)
def test_long_text_of_anything_is_read(unit):
    # A reader that is quadratic would take minutes.
    assert isinstance(find_equations(unit * (30_000 // len(unit))), list)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*9=55, and 60-8=52. #### 7", "wrong_arithmetic"),
        ("12*3=36, and 60-8=52. #### 7", "right_arithmetic_wrong_answer"),
        (f"{FACT} #### 7", "right_arithmetic_wrong_answer"),
        ("Seven. #### 7", "no_arithmetic"),
        ("x = 5. #### 7", "no_arithmetic"),
        ("Seven. #### 7\nUser: 6*9=55", "no_arithmetic"),
        ("", "no_arithmetic"),
    ],
)
def test_wrong_answer_is_sorted_by_its_arithmetic(text, expected):
    assert classify(text, is_right=False, has_answer=True) == expected


def test_right_answer_is_right_whatever_its_arithmetic():
    assert classify("6*9=55 #### 7", is_right=True, has_answer=True) == "right"


def test_missing_answer_goes_before_arithmetic():
    assert classify("6*9=55", is_right=False, has_answer=False) == "no_answer"
