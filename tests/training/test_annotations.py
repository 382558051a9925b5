import pytest

from training.data.annotations import NoEquations, annotations_as_equations, strip_annotations

SOLUTION = "Tom has 6*9=<<6*9=54>>54 pens.\nHalf is $<<54/2=27>>27, and <<27=27>>27 is 27.\n#### 27"


def test_annotations_are_stripped_and_nothing_else():
    assert strip_annotations(SOLUTION) == "Tom has 6*9=54 pens.\nHalf is $27, and 27 is 27.\n#### 27"
    assert strip_annotations("a << b and c >> d\n<<x\ny>>") == "a << b and c >> d\n<<x\ny>>"


def test_annotations_become_an_equation_a_line():
    assert annotations_as_equations(SOLUTION) == "6*9 = 54\n54/2 = 27\n#### 27"
    assert annotations_as_equations("<<8*(6*7)=336>>336\n#### $336 ") == "8*(6*7) = 336\n#### $336"


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("He has 5.\n#### 5", "no annotation"),
        ("He has <<5=5>>5 or <<+5=5.00>>5.\n#### 5", "no annotation"),
        ("<<5=6>>\n#### 6", "unreadable annotation"),
        ("<<6*9=55>>\n#### 55", "false annotation"),
        ("<<6*9=54>>\n<<54-4=49>>\n#### 49", "false annotation"),
        ("<<6 apples*9=54>>\n#### 54", "unreadable annotation"),
        ("<<54>>\n#### 54", "no annotation"),
        ("<<+6+9=15>>\n#### 15", "unreadable annotation"),
        ("<<6*9=54>>", "no answer"),
        ("<<6*9=54>>\n#### many", "no answer"),
    ],
)
def test_solution_without_true_annotations_and_an_answer_is_refused(solution, reason):
    with pytest.raises(NoEquations, match=reason):
        annotations_as_equations(solution)
