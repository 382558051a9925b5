import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization import inject
from training.analysis.intervals import clustered_proportion, proportion
from training.evals.fact_use import COUNTS, PROPERTIES, fact_use, summarize_fact_use

FACT = "<MUL_6_9_54>"
QUESTION = "Anna has 6 bags of 9 apples."

PIECES = [
    *(
        "6*9",
        "6 x 9 = 54",
        "9×6=54",
        "6*9=55",
        "2*3*4=24",
        "(6*9)/2=27",
        "10-2*3",
        FACT,
        "<MUL_2_3_6>",
        "54",
        "6",
        "9",
    ),
    *(
        "<MUL_6_9_55>",
        "<MUL_",
        "<<6*9=54>>54",
        "####",
        "\nUser:",
        "\n",
        " ",
        " ",
        "two",
        "1/2",
        "x",
        "-",
        "*",
        "=",
        "$",
    ),
    *("\ufdd0", "\ufdd1", "<\ufdd0MUL_6_9_54>", "\ud800", "٣"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
fuzzed = settings(deadline=None, max_examples=300)


@pytest.mark.parametrize(
    ("response", "eligible", "emitted", "written_out"),
    [
        (f"It is {FACT}.", 1, 1, 0),
        ("It is 6*9=54.", 1, 0, 1),
        ("It is 9 x 6.", 1, 0, 1),
        (f"{FACT} and 7*8=56 and <MUL_7_8_56>", 3, 2, 1),
        (f"7*8=56 {FACT} 7*8=56", 3, 1, 2),
        (f"{FACT}*2=108", 1, 1, 0),
        (f"6*9=<<{FACT}>>54", 2, 1, 1),
        ("6*9=55, 12*3=36, <MUL_9_6_54>, <MUL_6_9_55>", 0, 0, 0),
        (f"10\nUser: {FACT}", 0, 0, 0),
        (f"10<|endoftext|>{FACT}", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_products_are_told_apart_as_tokens_and_written_out(response, eligible, emitted, written_out):
    counts = fact_use(QUESTION, response)
    assert (counts["eligible"], counts["emitted"], counts["written_out"]) == (eligible, emitted, written_out)


@pytest.mark.parametrize(
    ("question", "response", "right"),
    [
        ("6 bags of 9", "6*9=54", 1),
        ("6 bags of 9", FACT, 1),
        ("six bags of nine", FACT, 1),
        ("Twice 9", "2*9=18", 1),
        ("$6.00 for 9%", FACT, 1),
        ("6/9", FACT, 1),
        ("-6 and 9", FACT, 1),
        ("6 bags", FACT, 0),
        ("60 bags of 99", FACT, 0),
        ("16 bags of 9", FACT, 0),
        ("", FACT, 0),
        ("6 bags of 9", "6*7=42", 0),
        ("6 bags", "Each holds 9. 6*9=54", 1),
        ("6 bags", "6*9=54, for each holds 9.", 0),
        ("2 by 3", "2*3=6 so 6*6=36", 2),
        ("2 by 3", "<MUL_2_3_6> so <MUL_6_6_36>", 2),
        ("3 of 3 squared: 9", "3*3=9", 1),
        ("one bag", f"{FACT} {FACT}", 0),
    ],
)
def test_product_is_right_in_context_when_both_factors_were_there(question, response, right):
    assert fact_use(question, response)["right_in_context"] == right


@pytest.mark.parametrize(
    "response",
    [
        "6*9=54 apples. She eats 54.",
        f"{FACT} apples, so 54-4=50",
        f"{FACT}, minus 4 of the 54",
        f"{FACT}. #### 54",
        "<MUL_2_3_6> and 6*9=54 #### 54",
        f"#### {FACT}",
        f"She has {FACT}. #### {FACT}",
        f"The answer is {FACT}",
        FACT,
        f"{FACT} - 4 = 50",
        f"100 - {FACT} = 46",
        f"$100 - ${FACT} = $46",
        f"({FACT})/2 = 27",
        f"{FACT}*<MUL_2_3_6>=324 #### 324",
        "<MUL_1_5_5> so <MUL_5_9_45> #### 45",
    ],
)
def test_product_that_is_used_is_not_gratuitous(response):
    assert fact_use(QUESTION, response)["gratuitous"] == 0


@pytest.mark.parametrize(
    ("response", "gratuitous"),
    [
        (f"{FACT}. #### 7", 1),
        ("6*9=54. #### 7", 1),
        (f"54 is {FACT}. #### 7", 1),
        (f"{FACT} {FACT} {FACT} #### 7", 3),
        (f"{FACT} {FACT} {FACT}", 2),
        (f"{FACT}. #### 154", 1),
        (f"- {FACT}\n- eggs #### 7", 1),
        ("<MUL_2_9_18> <MUL_3_6_18> #### 7", 2),
        (f"{FACT}\nUser: 54", 0),
        (f"{FACT} #### 7\nUser: 54", 1),
    ],
)
def test_product_that_is_never_used_is_gratuitous(response, gratuitous):
    assert fact_use(QUESTION, response)["gratuitous"] == gratuitous


def test_repetitions_of_an_equal_fact_are_counted_after_the_first():
    assert fact_use(QUESTION, f"{FACT} 7*8=56 9*6=54 {FACT} <MUL_7_8_56>")["repeated"] == 3
    assert fact_use(QUESTION, f"{FACT} 7*8=56 9*6=54 {FACT} <MUL_7_8_56>")["emitted_repeated"] == 2


def test_properties_of_tokens_are_counted_among_the_tokens():
    counts = fact_use(QUESTION, f"{FACT} and 6*6=36 and <MUL_7_8_56> #### 7")
    assert [counts[name] for name in PROPERTIES] == [2, 3, 0]
    assert [counts[f"emitted_{name}"] for name in PROPERTIES] == [1, 2, 0]


@pytest.mark.parametrize(("response", "from_question"), [("A 2x4 board", 1), ("A <MUL_2_4_8> board, 4*2=8", 2)])
def test_fact_of_the_question_does_not_count(response, from_question):
    counts = fact_use("How long is a 2 x 4 board of 3 feet?", f"{response}, and 3*8=24 #### 24")
    assert counts["from_question"] == from_question
    assert counts["eligible"] == counts["written_out"] == counts["right_in_context"] == 1
    assert counts["emitted"] == 0


@given(texts, texts)
@fuzzed
def test_twins_differ_in_the_counts_of_tokens_only(question, response):
    plain, injected = fact_use(question, response), fact_use(question, inject(response))
    for name in ("eligible", "from_question", *PROPERTIES):
        assert plain[name] == injected[name]
    assert injected["written_out"] == 0
    assert fact_use(inject(question), response) == plain


@given(texts, st.one_of(texts, st.text(max_size=40)))
@fuzzed
def test_counts_of_any_text_are_consistent(question, response):
    counts = fact_use(question, response)
    assert tuple(counts) == COUNTS
    assert counts["eligible"] == counts["emitted"] + counts["written_out"]
    for name in PROPERTIES:
        assert counts["eligible"] >= counts[name] >= counts[f"emitted_{name}"] >= 0
        assert counts["emitted"] >= counts[f"emitted_{name}"]


def test_summary_gives_totals_means_and_shares():
    rows = [fact_use(QUESTION, text) for text in [f"{FACT} #### 54", "6*9=54, 7*8=56 #### 54", "none"]]
    summary = summarize_fact_use(rows)
    assert summary["responses"] == 3
    assert summary["counts"]["eligible"] == 3 and summary["counts"]["written_out"] == 2
    assert summary["eligible_per_response"]["value"] == 1
    assert summary["emitted_per_response"]["value"] == pytest.approx(1 / 3)
    assert summary["responses_with_tokens"] == proportion(1, 3)
    # Of one product in the first response, and two in the second.
    assert summary["emitted_per_eligible"] == clustered_proportion([1, 0], [1, 2])
    assert summary["right_in_context"]["value"] == pytest.approx(2 / 3)
    assert summary["gratuitous"] == clustered_proportion([0, 1], [1, 2])
    assert summary["emitted_gratuitous"] == clustered_proportion([0], [1])


@pytest.mark.parametrize("rows", [[], [fact_use(QUESTION, "none")]])
def test_share_of_nothing_is_none(rows):
    summary = summarize_fact_use(rows)
    for name in ("emitted_per_eligible", *PROPERTIES, *(f"emitted_{name}" for name in PROPERTIES)):
        assert summary[name] == {"value": None, "low": None, "high": None, "n": 0, "clusters": 0}
