import pytest

from tokenization import inject, render
from training.evals import word_problems
from training.evals.generation import Decoding, Reply
from training.evals.word_problems import WordProblems

ROWS = [
    {
        "question": "Ada has 6 boxes with 9 pencils in each. How many pencils does Ada have?",
        "answer": "6*9=54\n#### 54",
    },
    {"question": "Ben has 10 apples and eats 7. How many are left?", "answer": "10 - 7 = <<10-7=3>>3\n#### 3"},
]


def summary(replies, monkeypatch, rows=ROWS, **keys):
    """Summarise given replies, one list per item, through the task's own code."""
    given = iter([Reply([1] * 5, text, "end_of_text") for texts in replies for text in texts])
    monkeypatch.setattr(word_problems, "generate", lambda subject, prompts, *_: [next(given) for _ in prompts])

    class Subject:
        def prompt(self, question):
            return question

        def encode(self, text, inject):
            return [0] * len(text)

    task = WordProblems("test", rows, **keys)
    return task.summarize(task.run(Subject(), range(len(rows))))


def test_right_and_wrong_replies_are_counted(monkeypatch):
    results = summary([[" 6 * 9 = 54\n#### 54"], [" 10 - 7 = 4\n#### 4"]], monkeypatch)
    assert results["strict_accuracy"]["value"] == 0.5
    assert results["strict_accuracy"]["low"] > 0
    assert results["categories"]["right"]["value"] == results["categories"]["wrong_arithmetic"]["value"] == 0.5
    assert results["equations"]["all"]["value"] == 0.5
    assert results["equations"]["fact"] == results["equations"]["fact"] | {"value": 1.0, "n": 1}
    assert results["equations"]["difference"]["value"] == 0.0


@pytest.mark.parametrize(
    "text", [" 6*9=54 pencils.\n#### 54", " He has 6 * 9, so 60 - 6*9 = 6\n#### 6*9", " 6*9=54 6*9=54", ""]
)
def test_reply_and_its_injected_twin_get_the_same_results(monkeypatch, text):
    plain, twin = summary([[text], [text]], monkeypatch), summary([[inject(text)], [inject(text)]], monkeypatch)
    tokens = {"fact_use"}
    assert {key: plain[key] for key in plain.keys() - tokens} == {key: twin[key] for key in twin.keys() - tokens}


def test_flexible_accuracy_reads_a_number_without_the_mark(monkeypatch):
    results = summary([[" It is 54."], [" The answer is 3."]], monkeypatch)
    assert results["strict_accuracy"]["value"] == 0
    assert results["no_answer"]["value"] == 1
    assert results["categories"]["no_answer"]["value"] == 1
    assert results["flexible_accuracy"]["value"] == 1


def test_floors_are_the_constant_of_train_and_the_last_number_of_the_question(monkeypatch):
    train = [{"question": "", "answer": f"#### {n}"} for n in (3, 3, 8)]
    rows = [*ROWS, {"question": "Of 4 cats 2 sleep; how many of 2?", "answer": "#### 2"}]
    floors = summary([[""]] * 3, monkeypatch, rows=rows, train=train)["floors"]
    assert floors["best_constant_of_train"]["constant"] == 3
    assert floors["best_constant_of_train"]["value"] == pytest.approx(1 / 3)
    assert floors["last_number_of_question"]["value"] == pytest.approx(1 / 3)


def test_without_training_rows_the_floor_is_the_commonest_answer_of_the_items(monkeypatch):
    rows = [*ROWS, {"question": "Eve has 3 hens.", "answer": "#### 3"}, {"question": "All 4?", "answer": "#### 9"}]
    results = summary([["#### 3"]] * 4, monkeypatch, rows=rows)
    assert results["floors"]["best_constant_in_hindsight"] == results["floors"]["best_constant_in_hindsight"] | {
        "constant": 3,
        "value": 0.5,
    }
    assert results["strict_accuracy"]["floor"] == results["strict_accuracy"]["value"] == 0.5


def test_samples_give_pass_at_k_and_majority_at_k(monkeypatch):
    decoding = Decoding(samples=4, temperature=1.0)
    replies = [["#### 54", "#### 54", "#### 54", "#### 5"], ["#### 3", "#### 4", "#### 4", ""]]
    results = summary(replies, monkeypatch, decoding=decoding)
    assert results["strict_accuracy"]["value"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert results["pass_at"]["1"]["value"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert results["pass_at"]["2"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert results["pass_at"]["4"]["value"] == 1
    assert results["majority_at"]["4"]["value"] == 0.5


def test_interval_over_samples_stays_within_0_and_1_and_counts_the_problems(monkeypatch):
    replies = [["#### 54", "", "", ""], ["", "", "", ""]]
    results = summary(replies, monkeypatch, decoding=Decoding(samples=4, temperature=1.0))
    for name, value in (("strict_accuracy", 1 / 8), ("no_answer", 7 / 8)):
        assert results[name]["value"] == pytest.approx(value)
        assert 0 <= results[name]["low"] < value < results[name]["high"] <= 1
        assert (results[name]["n"], results[name]["clusters"]) == (8, 2)


def test_answer_only_reads_the_number_that_comes_at_once(monkeypatch):
    results = summary([[" 54"], [" 10 - 7"]], monkeypatch, mode="answer_only")
    assert results["strict_accuracy"]["value"] == 0.5


def test_cut_and_refused_items_are_counted(monkeypatch):
    replies = iter([Reply([1], " 1 1 1", "length"), Reply([], "", "too_long")])
    monkeypatch.setattr(word_problems, "generate", lambda subject, prompts, *_: [next(replies) for _ in prompts])

    class Subject:
        def prompt(self, question):
            return question

        def encode(self, text, inject):
            return [0]

    task = WordProblems("test", ROWS)
    results = task.summarize(task.run(Subject(), [0, 1]))
    assert results["truncated"]["value"] == 0.5
    assert results["too_long"] == 1
    assert results["finish"] == {"length": 1, "too_long": 1}


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"question": "?"}, {}, "row 0: '{answer}' needs a field 'answer'"),
        ({"question": "?", "answer": "yes"}, {}, "row 0: the answer 'yes' holds no number"),
        ({"question": "?", "answer": "#### 1"}, {"mode": "guess"}, "mode is 'guess'; choose worked"),
    ],
)
def test_bad_rows_and_settings_are_named(row, keys, message):
    with pytest.raises(ValueError, match=message):
        WordProblems("test", [row], **keys)


def test_other_sets_are_read_by_templates():
    svamp = [{"Body": "He has 3.", "Question": "How many?", "Answer": 3.0}]
    asdiv = [{"body": "He has 9.", "question": "How many?", "answer": "9 (apples)"}]
    assert WordProblems("svamp", svamp, question="{Body} {Question}", answer="{Answer}").gold == [3]
    assert WordProblems("asdiv", asdiv, question="{body} {question}").gold == [9]


def test_rendered_length_does_not_depend_on_the_arm(monkeypatch):
    text = " So 6 * 9 = 54."
    assert render(inject(text)) != text, "the twin is written in another way, and both are measured in one"
    plain, twin = summary([[text]] * 2, monkeypatch), summary([[inject(text)]] * 2, monkeypatch)
    assert plain["mean_bytes"] == twin["mean_bytes"]


def program(*lines: str) -> str:
    return "def simple_math_problem():\n" + "".join(f"    {line}\n" for line in lines)


def test_program_is_graded_by_what_it_returns(monkeypatch):
    replies = [
        [program("boxes = 6", "pencils = boxes * 9", "return pencils") + "#### 7"],
        ["```python\nimport math\n" + program("return math.ceil(2.1 + 0.9)") + "```\nSo the answer is 7."],
    ]
    results = summary(replies, monkeypatch, mode="program")
    assert results["strict_accuracy"]["value"] == 1
    assert results["programs"] == {"ok": 2}


def test_program_and_its_injected_twin_return_the_same(monkeypatch):
    text = program("pencils = 6 * 9  # 6*9=54", "half = pencils == 6*9", "return pencils")
    assert inject(text) != text
    results = summary([[text], [inject(text)]], monkeypatch, rows=[ROWS[0], ROWS[0]], mode="program")
    assert results["strict_accuracy"]["value"] == 1


def test_noise_of_floats_does_not_make_a_program_wrong(monkeypatch):
    replies = [[program("return 0.6 * 3 * 30")], [program("return 2.99")]]
    results = summary(replies, monkeypatch, mode="program")
    assert [results["categories"][name]["value"] for name in ("right", "wrong_program")] == [0.5, 0.5]


def test_refused_programs_are_counted_with_their_reasons(monkeypatch):
    replies = [[program("return __import__('os').system('true')")], ["The answer is 3."]]
    results = summary(replies, monkeypatch, mode="program")
    assert results["categories"]["no_answer"]["value"] == 1
    assert results["programs"] == {"refused": 2}
    assert sum(results["reasons"].values()) == 2
