import json

import pytest

from tests.training.small_sft_sources import questions, source_of
from tests.training.tiny_subjects import CONTEXT, SUBJECTS, pieces, subject_of, tape, tokenizer_of
from tokenization import inject
from tokenization.mul_facts import END_OF_TEXT_ID
from training.data.conversations import encode_conversation
from training.evals import replies
from training.evals.decoding import Decoding
from training.evals.generation import Reply
from training.evals.replies import Replies

QUESTION = "What is 6*9?"
SINGLE = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "6 * 9 = 54\n#### 54"}]
SYSTEM = [{"role": "system", "content": "Use 7 x 8 and <|endoftext|>."}, *SINGLE]
SEVERAL = [*SYSTEM, {"role": "user", "content": "And 3 × 4?"}, {"role": "assistant", "content": " 12"}]
END = [END_OF_TEXT_ID]


def given(monkeypatch, *texts):
    """Let generation give these replies, and return the list that its prompts will be in."""
    remaining, prompts = iter(texts), []

    def generate(subject, of_batch, *_):
        prompts.extend(of_batch)
        return [Reply([1] * len(text), text, "end_of_text") for text in (next(remaining) for _ in of_batch)]

    monkeypatch.setattr(replies, "generate", generate)
    return prompts


def measured(task, subject):
    """Run all batches and return the rows in their order, and the summary."""
    rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    rows.sort(key=lambda row: row["index"])
    return rows, task.summarize(rows)


def said(folder, name, ids, answer="ok.", **decoding):
    """Return row and summary of a model that says these ids to one question, whose reply in the data is `answer`."""
    task = Replies("test", [source_of(folder, [{"question": "Hi", "answer": answer}])], decoding=Decoding(**decoding))
    prompt = tokenizer_of(name).encode("User: Hi\nAssistant:")
    (row,), results = measured(task, tape(name, ids, prompt=len(prompt)))
    return row, results


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("conversation", [SINGLE, SYSTEM, SEVERAL], ids=["single", "system", "several"])
def test_prompt_is_the_training_example_up_to_the_last_reply_id_for_id(tmp_path, monkeypatch, name, conversation):
    subject, prompts = subject_of(name), given(monkeypatch, "")
    (row,), _ = measured(Replies("test", [source_of(tmp_path, [{"messages": conversation}])]), subject)
    (prompt,) = prompts
    example = encode_conversation(conversation, subject.tokenizer)
    assert prompt == example.input_ids[: len(prompt)].tolist()
    assert not example.completion_mask[len(prompt) - 1]
    assert example.completion_mask[len(prompt) :].all()
    assert row["reference"] == conversation[-1]["content"]


def test_prompt_of_a_single_question_is_that_of_the_other_tasks(tmp_path, monkeypatch):
    subject, prompts = subject_of("mul_tokens"), given(monkeypatch, "")
    measured(Replies("test", [source_of(tmp_path, [{"messages": SINGLE}])]), subject)
    assert prompts == [subject.encode(subject.prompt(QUESTION))]


def test_row_can_be_read_alone_and_its_texts_are_those_of_the_data_in_both_arms(tmp_path, monkeypatch):
    source = source_of(tmp_path, [{"messages": SEVERAL}])
    for name in ("baseline", "mul_tokens"):
        given(monkeypatch, " 12")
        (row,), _ = measured(Replies("test", [source]), subject_of(name))
        assert row["prompt"] == (
            "Use 7 x 8 and <|endoftext|>.\nUser: What is 6*9?\nAssistant: 6 * 9 = 54\n#### 54<|endoftext|>"
            "User: And 3 × 4?\nAssistant:"
        )
        assert (row["reference"], row["reply"], row["source"]) == (" 12", " 12", "rows.jsonl")
        assert row["where"].endswith("rows.jsonl, line 1")


@pytest.mark.parametrize("name", ["baseline", "mul_tokens"])
def test_reply_of_the_data_has_ended_and_is_the_reference(tmp_path, name):
    row, results = said(tmp_path, name, [*pieces(" ok", "."), *END])
    assert (row["reply"], row["finish"], row["reference_finish"]) == (" ok.", "end_of_text", "end_of_text")
    for share in ("ended", "reference_ended", "same_as_reference"):
        assert results[share]["value"] == 1


@pytest.mark.parametrize(
    ("texts", "finish", "reply"),
    [
        ([" ok", ".", "\n", "User", ":"], "stop_string", " ok."),
        (["####", " 5", "\n", "####"], "second_answer", "#### 5\n"),
        ([" ok"] * 8, "length", " ok" * 8),
    ],
)
def test_reply_that_something_else_cut_off_has_not_ended(tmp_path, texts, finish, reply):
    row, results = said(tmp_path, "baseline", [*pieces(*texts), *END], max_new_tokens=8)
    assert (row["finish"], row["reply"]) == (finish, reply)
    assert results["ended"]["value"] == 0
    assert results["truncated"]["value"] == (finish == "length")
    assert results["finish"] == {finish: 1}


@pytest.mark.parametrize(
    ("answer", "decoding", "finish"),
    [
        ("one two", {"max_new_tokens": 3}, "end_of_text"),
        ("one two", {"max_new_tokens": 2}, "length"),
        ("one " * CONTEXT, {}, "length"),
        ("#### First\nx\n#### Second\ny", {}, "second_answer"),
        ("#### First\nx\n#### Second\ny", {"one_answer": False}, "end_of_text"),
        ("a\nUser: b", {}, "stop_string"),
    ],
)
def test_limits_in_which_the_datas_own_reply_could_not_end_are_told(tmp_path, answer, decoding, finish):
    row, results = said(tmp_path, "baseline", END, answer, **decoding)
    assert row["reference_finish"] == finish
    assert results["reference_ended"]["value"] == (finish == "end_of_text")


def test_prompt_that_fills_the_context_is_counted_and_is_in_no_share(tmp_path):
    rows = [{"question": "word " * CONTEXT, "answer": "a"}, {"question": "Hi", "answer": "b"}]
    rows, results = measured(Replies("test", [source_of(tmp_path, rows)]), subject_of("baseline"))
    assert [row["finish"] == "too_long" for row in rows] == [True, False]
    assert rows[0]["reference_finish"] == "too_long"
    assert (results["n"], results["too_long"]) == (2, 1)
    for share in ("ended", "reference_ended", "same_as_reference", "truncated", "repeating"):
        assert results[share]["n"] == 1


def test_rows_without_any_reply_have_results_without_values(tmp_path):
    task = Replies("test", [source_of(tmp_path, [{"question": "word " * CONTEXT, "answer": "a"}])])
    _, results = measured(task, subject_of("baseline"))
    assert results["ended"] == {"value": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize(
    "text", [" 6 * 9 = 54\n#### 54", " He has 6*9, so 60 - 6*9 = 6\n#### 6*9", " 6*9=54 6*9=54", ""]
)
def test_reply_and_its_injected_twin_get_the_same_values_but_for_tokens(tmp_path, monkeypatch, text):
    given(monkeypatch, text, inject(text))
    (plain, twin), _ = measured(
        Replies("test", [source_of(tmp_path, [{"messages": SINGLE}] * 2)]), subject_of("stock")
    )
    assert plain["same_as_reference"] == twin["same_as_reference"] == (text == f" {SINGLE[-1]['content']}")
    of_tokens = {"index", "where", "reply", "tokens", "facts"}
    assert {key: plain[key] for key in plain.keys() - of_tokens} == {key: twin[key] for key in twin.keys() - of_tokens}
    for count in ("eligible", "right_in_context", "gratuitous", "repeated", "from_question"):
        assert plain["facts"][count] == twin["facts"][count]


def test_fact_of_an_earlier_exchange_is_one_of_the_question(tmp_path, monkeypatch):
    given(monkeypatch, " 6 * 9 = 54 and 2 * 3 = 6")
    (row,), _ = measured(Replies("test", [source_of(tmp_path, [{"messages": SEVERAL}])]), subject_of("baseline"))
    assert (row["facts"]["from_question"], row["facts"]["eligible"]) == (1, 1)


def drawn(folder, rows, sample, seed=0):
    """Return the numbers of the rows that are drawn of so many."""
    task = Replies("test", [source_of(folder, rows, sample=sample)], seed=seed)
    return [int(row.messages[-1]["content"]) for row in task.rows]


def test_smaller_sample_is_part_of_a_larger_one_and_in_the_order_of_the_data(tmp_path):
    small, large = drawn(tmp_path, 50, 5), drawn(tmp_path, 50, 20)
    assert len(small) == 5 and set(small) < set(large)
    assert large == sorted(set(large))
    assert drawn(tmp_path, 50, 50) == list(range(50))


def test_draw_depends_on_the_seed_and_the_rows_number_alone(tmp_path):
    others = [{"question": "other", "answer": row["answer"]} for row in questions(50)]
    assert drawn(tmp_path, others, 20) == drawn(tmp_path, 50, 20)
    assert drawn(tmp_path, 50, 20, seed=1) != drawn(tmp_path, 50, 20)
    # More rows take places, and never change who of the first ones comes before whom.
    assert {number for number in drawn(tmp_path, 100, 20) if number < 50} <= set(drawn(tmp_path, 50, 20))


def test_rows_are_all_of_a_source_without_a_sample(tmp_path):
    task = Replies("test", [source_of(tmp_path, 7), source_of(tmp_path, 9, name="other", sample=2)])
    assert [row.source for row in task.rows] == ["rows.jsonl"] * 7 + ["other.jsonl"] * 2


def test_results_are_also_told_by_source_when_there_are_several(tmp_path, monkeypatch):
    given(monkeypatch, *[" 0", " 0", " 0"])
    one, two = source_of(tmp_path, 1), source_of(tmp_path, 2, name="other")
    _, results = measured(Replies("test", [one, two], batch_size=1), subject_of("stock"))
    assert {label: each["n"] for label, each in results["by_source"].items()} == {"rows.jsonl": 1, "other.jsonl": 2}
    assert results["by_source"]["rows.jsonl"]["same_as_reference"]["value"] == 1
    assert results["by_source"]["other.jsonl"]["same_as_reference"]["value"] == 0.5
    given(monkeypatch, " 0")
    _, results = measured(Replies("test", [one]), subject_of("stock"))
    assert "by_source" not in results


def test_row_does_not_depend_on_the_others_of_its_batch(tmp_path):
    decoding = Decoding(max_new_tokens=6, temperature=1.0)
    task = Replies("test", [source_of(tmp_path, 5)], decoding=decoding, seed=2)
    subject = subject_of("mul_tokens")
    together, alone = task.run(subject, range(5)), [task.run(subject, [index])[0] for index in range(5)]
    assert together == alone
    assert len({row["reply"] for row in together}) > 1
    assert json.loads(json.dumps(together)) == together


def test_rows_that_are_no_conversations_are_counted(tmp_path, monkeypatch):
    given(monkeypatch, " 0")
    source = source_of(tmp_path, [*questions(1), {"question": "?", "answer": ""}], malformed="drop")
    _, results = measured(Replies("test", [source]), subject_of("stock"))
    assert (results["n"], results["left_out"]) == (1, {"malformed": 1})


def test_same_rows_in_another_folder_are_the_same_data(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    here, there = (Replies("test", [source_of(tmp_path / folder, 3)]) for folder in ("here", "there"))
    other = Replies("test", [source_of(tmp_path, 3, name="other")])
    assert here.data_sha256 == there.data_sha256 != other.data_sha256


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sample": 4}, "task 'test': source 'rows.jsonl' has sample 4, but 3 rows; lower sample"),
        (
            {"weight": 1.0, "epochs": 2},
            "task 'test': source 'rows.jsonl' has weight, epochs, of use in a mixture only",
        ),
        ({"held_out": 1}, "has held_out, of use in a mixture only"),
    ],
)
def test_source_that_makes_no_sense_here_is_refused(tmp_path, keys, message):
    with pytest.raises(ValueError, match=message):
        Replies("test", [source_of(tmp_path, 3, **keys)])


@pytest.mark.parametrize("rows", [[], [{"question": "?", "answer": ""}]])
def test_source_without_rows_is_refused(tmp_path, rows):
    source = source_of(tmp_path, rows, malformed="drop")
    left_out = r"\{'malformed': 1\}" if rows else "none"
    with pytest.raises(ValueError, match=rf"task 'test': source 'rows.jsonl' has no rows \(left out: {left_out}\)"):
        Replies("test", [source])


def test_several_samples_and_no_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a row gets one reply, but samples is 2"):
        Replies("test", [source_of(tmp_path, 1)], decoding=Decoding(samples=2, temperature=1.0))
    with pytest.raises(ValueError, match="task 'test' has no datasets"):
        Replies("test", [])


def test_reading_stops_at_the_limit_of_the_source(tmp_path):
    source = source_of(tmp_path, [*questions(5), {"question": "?", "answer": None}], limit=5, sample=2)
    assert len(Replies("test", [source]).rows) == 2
