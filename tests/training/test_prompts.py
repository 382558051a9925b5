"""The prompts of a GRPO run: read from their sources, checked, held out, and drawn into pools."""

import functools
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.training.scripted_replies import source_of_prompts
from tests.training.small_sft_sources import write_rows
from tests.training.tiny_subjects import tokenizer_of
from tokenization import MulFactTokenizer
from training.core.grpo_recipe import GrpoDataArguments
from training.data.rows import RowSource
from training.evals.answers import read_answer
from training.rl import prompts as prompts_module
from training.rl.prompts import Prompt, Prompts, PromptSource, open_prompts, open_sources, pool_of, prepare_prompts

MULTIPLICATIONS = {"synthetic": "multiplications", "documents": 30}
ITEM = "A farmer with two brown dogs and three cats sells all of his ripe apples on the market. How many?"

# Building a tokenizer takes longer than all the rest.
_BUILD_ONCE = SimpleNamespace(build=functools.cache(MulFactTokenizer.build))


def frame(question):
    return f"User: {question}\nAssistant:"


def rows_with(*answers):
    return [{"question": f"Question {number}?", "answer": answer} for number, answer in enumerate(answers)]


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Write files of rows, and prepare prompts of them: prepare(rows=[…], dev=[…]) returns prompts and what was said.

    entries: instead of one for each file; longest, seed and frame as of prepare_prompts; other keys are the recipe's.
    """

    monkeypatch.setattr(prompts_module, "MulFactTokenizer", _BUILD_ONCE)

    def run(*, entries=None, keys=(), longest=60, seed=0, frame=frame, folder="prompts", **files):
        for name, rows in files.items():
            write_rows(tmp_path / f"{name}.jsonl", rows)
        entries = entries or [{"path": f"{name}.jsonl"} for name in files]
        args = GrpoDataArguments(prompts=entries, data_root=str(tmp_path), **dict(keys))
        said = []
        prepare_prompts(args, tmp_path / folder, longest, seed, frame, said.append)
        return open_prompts(tmp_path / folder), said

    return run


def questions_of(prompts):
    return [prompt.question for prompt in prompts]


def files_of(folder):
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("6*9=54\n#### 18", 18),
        ("#### 1,234", 1234),
        ("#### -7", -7),
        ("#### 0.5", 0.5),
        ("18", 18),
        ("9 (apples)", 9),
    ],
)
def test_gold_is_the_number_of_the_answer(prepare, answer, gold):
    prompts, _ = prepare(rows=rows_with(answer))
    assert prompts.train == [Prompt("Question 0?", gold, prompts.train[0].where, 0)]
    assert type(prompts.train[0].gold) is type(gold)


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\n", "\r\n", "\x1c"])
def test_question_may_hold_any_line_break(prepare, break_):
    asked = f"2*3{break_}is?"
    prompts, _ = prepare(rows=[{"question": asked, "answer": "6"}, *rows_with("1")])
    assert questions_of(prompts.train) == [asked, "Question 0?"]


def test_prompt_says_which_row_of_which_source_it_is(prepare):
    prompts, _ = prepare(rows=rows_with("1", "2"), more=[{"question": "More?", "answer": "3"}])
    assert [prompt.source for prompt in prompts.train] == [0, 0, 1]
    assert [re.sub(r": .*/", ": ", prompt.where) for prompt in prompts.train] == [
        "rows.jsonl: rows.jsonl, line 1",
        "rows.jsonl: rows.jsonl, line 2",
        "more.jsonl: more.jsonl, line 1",
    ]


def test_synthetic_multiplications_are_prompts_with_their_answers(prepare):
    prompts, _ = prepare(entries=[{**MULTIPLICATIONS, "factor_digits": [1, 1], "seed": 2}], longest=100)
    rows = RowSource(**MULTIPLICATIONS, factor_digits=(1, 1), seed=2).read()
    expected = {row["question"]: read_answer(row["answer"]).strict for row in rows}
    assert {prompt.question: prompt.gold for prompt in prompts.train} == expected


def test_entries_may_be_json_as_on_a_command_line(prepare):
    prompts, _ = prepare(rows=rows_with("1"), entries=['{"path": "rows.jsonl", "limit": 1}'])
    assert questions_of(prompts.train) == ["Question 0?"]


def test_held_out_prompts_are_not_trained_on(prepare):
    prompts, said = prepare(rows=rows_with(*"123456789"), entries=[{"path": "rows.jsonl", "held_out": 3}])
    assert len(prompts.dev) == 3
    assert Counter(questions_of(prompts.train + prompts.dev)) == Counter(f"Question {i}?" for i in range(9))
    assert said[-1].startswith("6 prompts to train on, 3 held out")


def test_seed_does_not_change_what_is_held_out(prepare):
    rows, keys = rows_with(*map(str, range(40))), {"entries": [{"path": "rows.jsonl", "held_out": 10}]}
    (one, _), (other, _) = (prepare(rows=rows, seed=seed, keys={"max_dev_prompts": 4}, **keys) for seed in (1, 2))
    assert one.dev == other.dev
    assert len(one.dev) == 4
    assert set(one.train) == set(other.train)


def test_held_out_prompts_beyond_the_most_are_not_trained_on_either(prepare):
    rows, entries = rows_with(*map(str, range(20))), [{"path": "rows.jsonl", "held_out": 10}]
    prompts, _ = prepare(rows=rows, entries=entries, keys={"max_dev_prompts": 4})
    assert (len(prompts.train), len(prompts.dev)) == (10, 4)


def test_run_without_held_out_prompts_has_none(prepare):
    assert prepare(rows=rows_with("1", "2"))[0].dev == []


def test_copies_of_test_items_are_left_out_and_counted(prepare, tmp_path):
    write_rows(tmp_path / "test.jsonl", [{"question": ITEM}])
    rows = [*rows_with("1"), {"question": f"Listen! {ITEM}", "answer": "5"}]
    decontaminate = {"decontaminate": [{"path": "test.jsonl", "template": "{question}"}]}
    prompts, said = prepare(rows=rows, keys=decontaminate)
    assert questions_of(prompts.train) == ["Question 0?"]
    assert prompts.report["sources"][0]["contaminated"] == 1
    assert said == ["1 prompts to train on, 0 held out; left out: copies of test items 1"]


def test_synthetic_prompt_that_asks_a_test_item_is_left_out(prepare, tmp_path):
    row = RowSource(**MULTIPLICATIONS).read()[7]
    write_rows(tmp_path / "test.jsonl", [row])
    decontaminate = {"decontaminate": [{"path": "test.jsonl", "template": "{question}"}]}
    clean, _ = prepare(entries=[MULTIPLICATIONS], longest=100, keys=decontaminate)
    everything, said = prepare(entries=[MULTIPLICATIONS], longest=100)
    assert set(questions_of(everything.train)) - set(questions_of(clean.train)) == {row["question"]}
    assert "decontaminate is empty: copies of test items are not looked for" in said


def test_question_that_was_asked_before_is_left_out_and_counted(prepare):
    again = [{"question": "Question 1?", "answer": "7"}, {"question": "New?", "answer": "8"}]
    prompts, said = prepare(rows=rows_with("1", "2"), more=again)
    assert [(prompt.question, prompt.gold) for prompt in prompts.train] == [
        ("Question 0?", 1),
        ("Question 1?", 2),
        ("New?", 8),
    ]
    assert prompts.report["left_out_prompts"] == [{}, {"asked before": 1}]
    assert said[-1].endswith("copies of test items 0, asked before 1")


@pytest.mark.parametrize(("room", "kept"), [(0, ["Question 0?", "Long " * 9]), (-1, ["Question 0?"])])
def test_too_long_prompts_are_left_out_and_counted(prepare, room, kept):
    longest = len(tokenizer_of("baseline").encode(frame("Long " * 9))) + room
    prompts, _ = prepare(rows=[*rows_with("1"), {"question": "Long " * 9, "answer": "2"}], longest=longest)
    assert questions_of(prompts.train) == kept
    assert prompts.report["left_out_prompts"] == [{"too long": 1} if len(kept) == 1 else {}]


def test_both_arms_leave_out_the_same_long_prompts(prepare):
    asked = "6*9=54 " * 8 + "?"
    short, long = (len(tokenizer_of(arm).encode(frame(asked))) for arm in ("mul_tokens", "baseline"))
    assert short < long - 1

    def framed(arm):
        return lambda question: tokenizer_of(arm).apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )

    rows = [*rows_with("1"), {"question": asked, "answer": "2"}]
    for longest, count in ((long - 1, 1), (long, 2)):
        one, other = (
            prepare(rows=rows, longest=longest, frame=framed(arm), folder=f"{arm}-{longest}")[0]
            for arm in ("baseline", "mul_tokens")
        )
        assert one.sha256 == other.sha256
        assert len(one.train) == count


def test_names_of_special_tokens_are_counted_as_the_text_that_they_are(prepare):
    asked = "<|endoftext|>" * 5
    longest = len(tokenizer_of("baseline").encode(frame("a")))  # so many if each were one token: 5 in place of 1
    prompts, _ = prepare(rows=[*rows_with("1"), {"question": asked, "answer": "2"}], longest=longest + 4)
    assert questions_of(prompts.train) == ["Question 0?"]


@pytest.mark.parametrize(
    ("answer", "reason"), [("no idea", "holds no number"), ("either 3 or 4", "is not one number")]
)
def test_row_without_one_number_as_its_answer_is_named(prepare, answer, reason):
    with pytest.raises(
        ValueError, match=rf"rows.jsonl: .*rows.jsonl, line 2: the answer '{answer}' {reason}.*malformed"
    ):
        prepare(rows=rows_with("1", answer))


def test_rows_without_one_number_are_dropped_and_counted_on_request(prepare):
    entries = [{"path": "rows.jsonl", "malformed": "drop"}]
    prompts, said = prepare(rows=rows_with("1", "no idea", "3 or 4", "5"), entries=entries)
    assert [prompt.gold for prompt in prompts.train] == [1, 5]
    assert said[-1].endswith("no number as the answer 2")


def test_conversations_that_are_no_question_and_answer_are_left_out_and_counted(prepare):
    def conversation(*roles):
        return {"messages": [{"role": role, "content": f"{number + 1}"} for number, role in enumerate(roles)]}

    asked, turns = ("user", "assistant"), ("user", "assistant", "user", "assistant")
    prompts, _ = prepare(rows=[conversation(*asked), conversation(*turns), conversation("system", *asked)])
    assert [(prompt.question, prompt.gold) for prompt in prompts.train] == [("1", 2)]
    assert prompts.report["left_out_prompts"] == [{"not one question and one answer": 2}]


def test_source_that_leaves_nothing_to_train_on_is_an_error_with_the_reasons(prepare):
    with pytest.raises(ValueError, match=r"no prompt is left to train on \(too long 2\); see prompts"):
        prepare(rows=rows_with("1", "2"), longest=3)


def test_file_that_is_not_there_is_named(prepare):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        prepare(entries=[{"path": "nothing.jsonl"}])


def test_prompts_are_prepared_once(prepare, tmp_path):
    entries = [{"path": "rows.jsonl", "held_out": 1}]
    first, _ = prepare(rows=rows_with("1", "2", "3"), entries=entries)
    before = files_of(tmp_path / "prompts")
    again, said = prepare(entries=entries)
    assert again == first
    assert files_of(tmp_path / "prompts") == before
    assert said == []


@pytest.mark.parametrize(
    "change",
    [
        {"rows": rows_with("1", "2", "3", "4")},
        {"longest": 61},
        {"seed": 1},
        {"keys": {"max_dev_prompts": 9}},
        {"entries": [{"path": "rows.jsonl", "last_episode": 3}]},
    ],
)
def test_prompts_are_prepared_again_when_what_they_depend_on_has_changed(prepare, change):
    prepare(rows=rows_with("1", "2", "3"))
    prompts, said = prepare(**{"entries": [{"path": "rows.jsonl"}], **change})
    assert len(prompts.train) == len(change.get("rows", "123"))
    assert said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longest": 61}, "longest was 60 and is now 61"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"entries": [{"path": "rows.jsonl", "last_episode": 3}]}, r"prompts was .*'last_episode': 3"),
    ],
)
def test_prompts_of_a_run_that_has_begun_are_not_exchanged(prepare, tmp_path, change, message):
    prepare(rows=rows_with("1", "2", "3"))
    (tmp_path / "checkpoint-5").mkdir()
    before = files_of(tmp_path / "prompts")
    with pytest.raises(ValueError, match=rf"cannot resume .* with other prompts: {message}.*; put it back, or choose"):
        prepare(**{"entries": [{"path": "rows.jsonl"}], **change})
    assert files_of(tmp_path / "prompts") == before


def test_run_that_has_begun_keeps_its_prompts_when_their_files_have_changed(prepare, tmp_path):
    first, _ = prepare(rows=rows_with("1", "2", "3"))
    (tmp_path / "checkpoint-5").mkdir()
    again, said = prepare(rows=rows_with("7"))
    assert again == first
    assert said == []


def test_half_prepared_prompts_are_prepared_again(prepare, tmp_path):
    whole, _ = prepare(rows=rows_with("1", "2"))
    (tmp_path / "prompts" / "report.json").unlink()
    (tmp_path / "prompts" / "train.jsonl").write_text("")
    assert prepare(rows=rows_with("1", "2"))[0].train == whole.train


def test_hash_tells_prompts_answers_and_order_apart():
    one, two, three = (Prompt(f"{number}?", number, "", 0) for number in range(3))
    parts = [([one, two], [three]), ([two, one], [three]), ([one], [three]), ([one, Prompt("1?", 9, "", 0)], [three])]
    assert len({Prompts(train, dev, {}).sha256 for train, dev in parts}) == 4


@pytest.mark.parametrize(
    ("keys", "used"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"first_episode": 2}, [2, 3, 4]),
        ({"last_episode": 1}, [0, 1]),
        ({"first_episode": 1, "last_episode": 1}, [1]),
        ({"last_episode": None}, [0, 1, 2, 3, 4]),
    ],
)
def test_source_is_in_use_from_its_first_to_its_last_episode(keys, used):
    source = source_of_prompts(**keys)
    assert [episode for episode in range(5) if source.is_used_in(episode)] == used


EASY, HARD = (
    [Prompt(f"{name} {number}?", number, "", source) for number in range(12)] for source, name in ((0, "e"), (1, "h"))
)
CURRICULUM = [source_of_prompts(last_episode=1), source_of_prompts(first_episode=1, last_episode=2)]


@pytest.mark.parametrize(("episode", "used"), [(0, EASY), (1, EASY + HARD), (2, HARD)])
def test_pool_holds_prompts_of_the_sources_in_use(episode, used):
    assert set(pool_of(EASY + HARD, CURRICULUM, episode, 99, seed=0)) == set(used)


def test_episode_without_a_source_is_refused():
    with pytest.raises(ValueError, match="no source of prompts is in use in episode 3; check first_episode and last_"):
        pool_of(EASY + HARD, CURRICULUM, 3, 5, seed=0)


def test_pool_is_a_function_of_seed_and_episode():
    def pool(seed, episode):
        return tuple(pool_of(EASY, [source_of_prompts()], episode, 8, seed))

    pools = [pool(seed, episode) for seed in (0, 1) for episode in (0, 1, 2)]
    assert len(set(pools)) == len(pools)
    assert pools == [pool(seed, episode) for seed in (0, 1) for episode in (0, 1, 2)]
    assert all(len(set(each)) == 8 for each in pools)


def test_small_pool_is_the_beginning_of_a_large_one():
    small, large = (pool_of(EASY, [source_of_prompts()], 4, size, 0) for size in (5, 12))
    assert large[:5] == small


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("rows.jsonl", "prompts holds 'rows.jsonl', which is neither a mapping nor JSON"),
        ('"rows.jsonl"', "an entry of prompts is 'rows.jsonl'; write a mapping, such as `- path: gsm8k/train.jsonl`"),
        (
            {"path": "a.jsonl", "weight": 1.0},
            "'weight': 1.0.* has weight, but prompts are not mixed by weight; set limit",
        ),
        ({"path": "a.jsonl", "epochs": 2}, "has epochs, but prompts are not mixed by weight; set limit or sample"),
        ({"path": "a.jsonl", "first_episode": "soon"}, "first_episode must be int, but is 'soon'"),
        ({"path": "a.jsonl", "last_episode": 1.5}, "last_episode must be int or null, but is 1.5"),
        (
            {"path": "a.jsonl", "first_episode": -1},
            "source 'a.jsonl' is in use from episode -1 to None; episodes count",
        ),
        (
            {"path": "a.jsonl", "first_episode": 3, "last_episode": 2},
            "source 'a.jsonl' is in use from episode 3 to 2; .*the last one is not before the first",
        ),
        ({"path": "a.jsonl", "from_episode": 1}, r"unknown keys \['from_episode'\]"),
        ({"synthetic": "multiplications"}, "documents is 0"),
    ],
)
def test_entry_that_makes_no_sense_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        open_sources(GrpoDataArguments(prompts=[entry]))


def test_building_a_source_leaves_the_recipe_as_it_is():
    entry = {"path": "a.jsonl", "first_episode": 1}
    assert PromptSource.from_recipe(entry, ".").first_episode == 1
    assert entry == {"path": "a.jsonl", "first_episode": 1}
