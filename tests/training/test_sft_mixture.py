import json

import pytest

from tests.training.small_sft_sources import asked_of, questions, source_of, write_rows
from training.data.sft_mixture import build_mixture
from training.data.sft_sources import SftSource
from training.data.sources import Source


@pytest.fixture
def source(tmp_path):
    """Make a source of so many rows: source(100, sample=10)."""
    return lambda rows, name="rows", **keys: source_of(tmp_path, rows, name, **keys)


@pytest.fixture
def mix(tmp_path):
    """Build a mixture; returns it with the questions of its two parts."""

    def build(*sources, seed=0, **options):
        mixture = build_mixture(sources, seed, tmp_path / "mixture", **options)
        return mixture, *(asked_of(part) for part in (mixture.train, mixture.held_out))

    return build


def test_sample_is_of_the_whole_source_and_part_of_a_larger_one(source, mix):
    small, large = (mix(source(200, sample=count))[1] for count in (40, 80))
    assert len(small) == 40 and len(large) == 80 and set(small) < set(large)
    numbers = [int(question[4:-1]) for question in small]
    assert numbers == sorted(numbers) and 60 < sum(numbers) / 40 < 140


def test_sample_depends_on_the_seed_alone(source, mix):
    assert mix(source(200, sample=40), seed=1)[1] == mix(source(200, sample=40), seed=1)[1]
    assert mix(source(200, sample=40), seed=1)[1] != mix(source(200, sample=40), seed=2)[1]


def test_limit_takes_the_head_and_the_sample_is_of_it(source, mix):
    assert mix(source(200, limit=3))[1] == ["rows0?", "rows1?", "rows2?"]
    assert {int(question[4:-1]) for question in mix(source(200, limit=10, sample=5))[1]} < set(range(10))


def test_larger_sample_than_the_source_is_refused(source, mix):
    with pytest.raises(ValueError, match=r"'rows.jsonl' has sample 30, but 20 rows to train on"):
        mix(source(20, sample=30))


@pytest.mark.parametrize("held_out", [0.1, 20])
def test_held_out_rows_are_never_trained_on_and_independent_of_seed_and_sample(source, mix, held_out):
    parts = [
        mix(source(200, held_out=held_out, sample=sample), seed=seed)[1:] for seed, sample in ((0, None), (5, 50))
    ]
    for train, held in parts:
        assert not set(train) & set(held)
        assert 5 <= len(held) <= 40
    assert parts[0][1] == parts[1][1]
    assert len(parts[0][0]) + len(parts[0][1]) == 200
    if held_out == 20:
        assert len(parts[0][1]) == 20


def test_held_out_share_is_stable_when_rows_are_added_or_moved(source, mix):
    before = mix(source(100, held_out=0.2))[2]
    after = mix(source([*questions(50, "new"), *questions(100, "rows")[::-1]], held_out=0.2))[2]
    assert {question for question in after if question.startswith("rows")} == set(before) and before


def test_same_question_is_on_one_side_whatever_its_answer_or_blanks(source, mix):
    again = [{"question": f" ROWS{i}? ", "answer": "another"} for i in range(100)]
    _, train, held = mix(source([*questions(100, "rows"), *again], held_out=0.3))
    normal = [{question.strip().lower() for question in part} for part in (train, held)]
    assert not normal[0] & normal[1] and len(train) + len(held) == 200 and held


def test_question_held_out_of_one_source_is_not_trained_on_from_another(source, mix):
    first, second = source(100, "rows", held_out=0.3), source(questions(100, "rows"), "copies")
    mixture, train, held = mix(first, second)
    assert not set(train) & set(held)
    assert mixture.report["sources"][1]["asked_in_held_out"] == len(held) > 10


def test_holding_out_everything_is_refused(source, mix):
    with pytest.raises(ValueError, match="has held_out 20, but 20 rows"):
        mix(source(20, held_out=20))


def counts(mixture):
    return [each["train"] for each in mixture.report["sources"]]


def test_weights_are_shares_of_rows_total(source, mix):
    mixture, train, _ = mix(source(100, "a", weight=7), source(100, "b", weight=3), rows_total=55)
    assert counts(mixture) == [38, 17] or counts(mixture) == [39, 16]
    assert len(set(train)) == len(train) == mixture.report["rows"] == 55


def test_without_rows_total_the_scarcest_source_limits_the_mixture(source, mix):
    assert counts(mix(source(100, "a", weight=0.5), source(20, "b", weight=0.5))[0]) == [20, 20]
    assert counts(mix(source(100, "a", weight=0.5), source(20, "b", weight=0.5, epochs=3))[0]) == [60, 60]


def test_source_repeats_no_row_twice_before_all_came_once(source, mix):
    mixture, train, _ = mix(source(100, "a", weight=1), source(20, "b", weight=1, epochs=3), rows_total=100)
    repeats = [train.count(question["question"]) for question in questions(20, "b")]
    assert sum(repeats) == 50 and set(repeats) == {2, 3}
    assert mixture.report["sources"][1]["epochs"] == 2.5


def test_source_that_runs_out_is_named_with_its_numbers(source, mix):
    message = r"'b.jsonl' is to give 50 rows \(50.0% of rows_total 100\), but has 20 and may repeat them to 20 .* to 3"
    with pytest.raises(ValueError, match=message):
        mix(source(100, "a", weight=1), source(20, "b", weight=1), rows_total=100)


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ((1.0, None), {}, "some sources have a weight and others have none"),
        ((None, None), {"rows_total": 5}, "rows_total is 5; .* needs a weight"),
        ((1.0, 1.0), {"rows_total": 0}, "rows_total is 0"),
        ((), {}, "datasets is empty"),
    ],
)
def test_mixture_that_makes_no_sense_is_refused(source, mix, weights, options, message):
    with pytest.raises(ValueError, match=message):
        mix(*(source(10, f"s{i}", weight=weight) for i, weight in enumerate(weights)), **options)


ITEM = "Ann buys some red apples and two green pears at the small market in town today. How many?"


def test_copies_of_test_items_are_left_out_and_reported(tmp_path, source, mix):
    write_rows(tmp_path / "test.jsonl", [{"question": ITEM}])
    tests = [Source(name="the test", path="test.jsonl", root=str(tmp_path), text_field="question")]
    rows = [*questions(5, "rows"), {"question": "Hello?", "answer": f"Well, {ITEM.upper()} 7"}]
    mixture, train, _ = mix(source(rows), evaluation_sets=tests)
    assert train == [row["question"] for row in questions(5, "rows")]
    (facts,) = mixture.report["sources"]
    assert facts["contaminated"] == 1 and facts["contaminated_by_set"] == {"the test": 1}
    assert facts["contaminated_examples"][0]["where"].endswith("rows.jsonl, line 6")
    assert mixture.report["evaluation_sets"]["the test"]["items"] == 1


def test_synthetic_rows_are_compared_by_the_whole_question(tmp_path, mix):
    """Of so many problems made by one rule, most share 13 words with another."""
    synthetic = SftSource(synthetic="word_problems", documents=2000)
    _, all_questions, _ = mix(synthetic)
    write_rows(tmp_path / "test.jsonl", [{"question": all_questions[7]}])
    tests = [Source(path="test.jsonl", root=str(tmp_path), text_field="question")]
    mixture, train, _ = mix(synthetic, evaluation_sets=tests)
    assert train == [question for question in all_questions if question != all_questions[7]]
    assert mixture.report["sources"][0]["contaminated"] == all_questions.count(all_questions[7])


def test_rows_that_are_left_out_are_counted_in_the_report(source, mix):
    rows = [*questions(2), {"question": "q2?", "answer": ""}, *questions(1, "last")]
    mixture, train, _ = mix(source(rows, malformed="drop"))
    assert train == ["q0?", "q1?", "last0?"]
    assert mixture.report["sources"][0]["left_out"] == {"malformed": 1}
    assert mixture.report["sources"][0]["rows"] == 4


def test_source_without_a_usable_row_is_refused_with_the_reasons(source, mix):
    with pytest.raises(ValueError, match=r"'rows.jsonl' has no rows .*'no annotation': 3"):
        mix(source(questions(3), annotations="equations"))


def test_synthetic_instructions_are_a_source(mix):
    mixture, train, held = mix(SftSource(synthetic="instructions", documents=60, seed=2, held_out=10))
    assert len(train) + len(held) == 60
    assert mixture.report["sources"][0]["synthetic"] is True
    assert {row["source"] for row in mixture.train} == {"synthetic instructions"}


def test_drills_are_a_source_and_their_very_questions_are_left_out(tmp_path, mix):
    drills = SftSource(synthetic="drills", drill_minimum=3)
    mixture, all_questions, _ = mix(drills)
    assert {row["source"] for row in mixture.train} == {"synthetic drills"}
    write_rows(tmp_path / "test.jsonl", [{"question": all_questions[5]}])
    tests = [Source(path="test.jsonl", root=str(tmp_path), text_field="question")]
    assert mix(drills, evaluation_sets=tests)[1] == [each for each in all_questions if each != all_questions[5]]


def test_report_is_plain_json(source, mix):
    mixture, *_ = mix(source(100, "a", weight=7, held_out=0.1), source(100, "b", weight=3))
    assert json.loads(json.dumps(mixture.report)) == mixture.report


def test_rows_and_their_numbers_are_the_same_in_every_batch_size(source, mix, monkeypatch):
    first = mix(source(100, held_out=0.1, sample=40))
    monkeypatch.setattr("training.data.sft_mixture._ROWS_AT_ONCE", 7)
    again = mix(source(100, held_out=0.1, sample=40))
    assert first[1:] == again[1:] and first[0].report == again[0].report
