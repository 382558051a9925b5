import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization import inject, render
from tokenization.mul_facts import FACTS

F = "<MUL_6_9_54>"


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_every_fact_is_written_in_the_three_styles(fact):
    assert render(f"so {fact.name}.") == f"so {fact.a}*{fact.b}={fact.product}."
    assert render(f"so {fact.name}.", "expression") == f"so {fact.a}*{fact.b}."
    assert render(f"so {fact.name}.", "value") == f"so {fact.product}."


@pytest.mark.parametrize("follows", ["=54", " = $54", "\u00a0= x", "=="])
def test_equation_leaves_the_result_to_an_equals_sign_that_follows(follows):
    assert render(F + follows) == "6*9" + follows


@pytest.mark.parametrize(
    ("text", "equation"),
    [
        ("<MUL_2_3_6>*4 = 24", "2*3*4 = 24"),
        ("<MUL_2_3_6> + <MUL_6_9_54>", "2*3 + 6*9"),
        (f"100 - {F}", "100 - 6*9"),
        (f"-{F}", "-6*9"),
        (f"({F})/2", "(6*9=54)/2"),
    ],
)
def test_equation_states_nothing_false_inside_a_larger_calculation(text, equation):
    assert render(text) == equation


@pytest.mark.parametrize("text", [f"- {F}", f"* {F} - as before", f"2.\n{F}\n- 3", f"-\n{F}", f"x = {F}"])
def test_equation_keeps_the_result_beside_signs_that_calculate_nothing(text):
    assert render(text) == text.replace(F, "6*9=54")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"1{F}", "1 54"),
        (f"{F}1", "54 1"),
        (f"{F}{F}", "54 54"),
        (f"{F}{F}{F}", "54 54 54"),
        (f"0.{F}", "0. 54"),
        (f"1,{F}", "1, 54"),
        (f"{F}.5", "54 .5"),
        (f"{F},000", "54 ,000"),
        (f"{F}.", "54."),
        (f"{F}, 3", "54, 3"),
        (f"5\n{F}\n6", "5\n54\n6"),
        (f"-{F}", "-54"),
        (f"${F}", "$54"),
        (f"#### {F}", "#### 54"),
        (f"<<{F}>>54", "<<54>>54"),
    ],
)
def test_value_never_runs_into_the_digits_beside_it(text, value):
    assert render(text, "value") == value


@pytest.mark.parametrize("style", ["equation", "expression", "value"])
@pytest.mark.parametrize(
    "text", ["<MUL_9_6_54>", "<MUL_6_9_55>", "<MUL_0_9_0>", "<MUL_6_9_54", "<mul_6_9_54>", "6*9", ""]
)
def test_whatever_is_no_name_stays_text(text, style):
    assert render(text, style) == text


@pytest.mark.parametrize("style", ["", "Value", "names", None])
def test_a_style_that_does_not_exist_is_refused(style):
    with pytest.raises(ValueError, match=f"equation, expression, value, not {style!r}"):
        render(F, style)


@given(st.lists(st.sampled_from([F, "<MUL_1_1_1>", *"0123456789.,- \n=*$a"]), max_size=30).map("".join))
def test_the_values_stand_among_the_numbers_of_the_text(text):
    # Each fact's product is a number of its own, and the digits between the names are left as they were.
    expected = [{F: "54", "<MUL_1_1_1>": "1"}.get(part) or part for part in re.findall(r"<MUL_[0-9_]+>|[0-9]+", text)]
    assert re.findall("[0-9]+", render(text, "value")) == expected


def test_injected_problems_read_as_before_when_every_result_is_stated():
    text = "She buys 6*9=54 and 2 bags of 3*4=12, so 100-54=46 are left."
    assert render(inject(text)) == text
