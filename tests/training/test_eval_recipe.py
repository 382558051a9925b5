import json

import pytest

from training.evals.eval_recipe import TASKS, EvalArguments, resolved_recipe

PROBLEMS = {"task": "word_problems", "synthetic": "word_problems", "documents": 3}


def test_tasks_are_built_with_the_recipes_decoding_unless_they_say_otherwise():
    args = EvalArguments(
        tasks=[PROBLEMS, {**PROBLEMS, "name": "longer", "max_new_tokens": 99, "stop_strings": ["END"]}],
        max_new_tokens=7,
        repetition_penalty=1.5,
    )
    first, second = (task.settings()["decoding"] for task in args.open_tasks())
    assert first == first | {"max_new_tokens": 7, "repetition_penalty": 1.5, "stop_strings": ["\nUser:"]}
    assert second == second | {"max_new_tokens": 99, "repetition_penalty": 1.5, "stop_strings": ["END"]}


def test_every_kind_of_task_can_be_built(tmp_path):
    row = {"ctx": "A man", "endings": ["a", "b", "c", "d"], "label": "1"}
    (tmp_path / "h.jsonl").write_text(json.dumps(row) + "\n")
    text = {"task": "text_loss", "synthetic": "drills", "documents": 3}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "answer": "!"}) + "\n")
    replies = {"task": "replies", "datasets": [{"path": "rows.jsonl"}]}
    probes = {"task": "probes", "sets": ["addition"]}
    entries = [{"task": "hellaswag", "path": "h.jsonl"}, PROBLEMS, probes, text, replies]
    tasks = EvalArguments(tasks=entries, data_root=str(tmp_path)).open_tasks()
    assert [task.name for task in tasks] == [entry["task"] for entry in entries]
    assert {entry["task"] for entry in entries} == set(TASKS)
    assert all(task.headline for task in tasks)


def test_train_rows_come_from_the_same_data_set_unless_named(tmp_path):
    for split, answer in (("train", 5), ("test", 6)):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"question": "?", "answer": f"#### {answer}"}) + "\n")
    entry = {"task": "word_problems", "hub": str(tmp_path), "train": {"split": "train"}}
    (task,) = EvalArguments(tasks=[entry]).open_tasks()
    assert (task.gold, task.train_gold) == ([6], [5])
    entry = {"task": "word_problems", "hub": str(tmp_path), "train": {"path": "train.jsonl"}}
    (task,) = EvalArguments(tasks=[entry], data_root=str(tmp_path)).open_tasks()
    assert task.train_gold == [5]


def test_texts_of_text_loss_are_taken_up_to_the_limit():
    entry = {"task": "text_loss", "synthetic": "drills", "documents": 30}
    whole, part = EvalArguments(tasks=[entry, {**entry, "name": "part", "limit": 4}]).open_tasks()
    assert whole.data_sha256 != part.data_sha256


def test_replies_are_drawn_and_decoded_as_the_recipe_says():
    source = {"synthetic": "instructions", "documents": 40, "sample": 5}
    entry = {"task": "replies", "datasets": [source], "max_new_tokens": 9, "one_answer": False}
    (task,) = EvalArguments(tasks=[entry], seed=3, batch_size=2).open_tasks()
    (other,) = EvalArguments(tasks=[entry], seed=4).open_tasks()
    assert len(task.rows) == 5
    assert task.rows != other.rows
    assert task.settings() == task.settings() | {"batch_size": 2, "seed": 3}
    assert task.settings()["decoding"] == other.settings()["decoding"] | {"max_new_tokens": 9, "one_answer": False}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "task 'replies' has no datasets; list at least one"),
        ({"datasets": []}, "task 'replies' has no datasets"),
        ({"datasets": ["rows.jsonl"]}, "an entry of datasets is 'rows.jsonl'; write a mapping"),
        ({"datasets": [{"synthetic": "instructions", "documents": 1, "rows": 2}]}, r"unknown keys \['rows'\]"),
    ],
)
def test_replies_to_no_rows_are_refused(keys, message):
    args = EvalArguments(tasks=[{"task": "replies", **keys}])
    with pytest.raises(ValueError, match=message):
        args.open_tasks()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["hellaswag"], "is neither a mapping nor JSON"),
        ([{"path": "a"}], "is not a mapping with `task`"),
        ([{"task": "helaswag"}], "there is no task 'helaswag'; there are hellaswag"),
        ([{"task": "probes", "path": "x"}], r"task 'probes' has unknown keys \['path'\]; probes has"),
        ([{"task": "probes"}, {"task": "probes"}], "two tasks are called alike"),
        ([{"task": "probes", "name": "../x"}], "it names a file"),
        ([{**PROBLEMS, "max_new_tokens": "many"}], "task 'word_problems': max_new_tokens must be int"),
        ([{**PROBLEMS, "samples": 4}], "temperature"),
        ([{"task": "replies", "path": "x"}], r"task 'replies' has unknown keys \['path'\]; replies has datasets"),
        ([{"task": "replies", "datasets": {"path": "x"}}], "task 'replies': datasets must be list"),
    ],
)
def test_task_that_makes_no_sense_is_refused_before_anything_runs(tasks, message):
    with pytest.raises(ValueError, match=message):
        EvalArguments(tasks=tasks)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"name": "a/b"}, "name is 'a/b'"),
    ],
)
def test_recipe_that_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        EvalArguments(tasks=[PROBLEMS], **keys)


def test_recipe_without_tasks_is_refused():
    with pytest.raises(ValueError, match="the recipe has no tasks"):
        EvalArguments().open_tasks()


def test_resolved_recipe_is_json_with_tasks_as_mappings():
    args = EvalArguments(tasks=[json.dumps(PROBLEMS)])
    assert json.loads(json.dumps(resolved_recipe(args)))["tasks"] == [{"name": "word_problems", **PROBLEMS}]
