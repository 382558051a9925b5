import json
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from tests.training.tiny_subjects import tokenizer_of
from tokenization.mul_facts import END_OF_TEXT_ID
from training.data import packing_conversations
from training.data.conversations import encode_conversation
from training.data.packing import shuffled
from training.data.packing_conversations import IGNORED, open_packed, pack_conversations

ARMS = ("baseline", "mul_tokens")
MAX_LENGTH = 60


def conversation(number: int) -> list[dict[str, str]]:
    """One to three exchanges; every other row is full of facts, which are shorter in one arm."""
    facts = " ".join(f"{a}*{9 - a}" for a in range(1, 9)) if number % 2 else "no product here"
    messages = [{"role": "system", "content": "Calculate."}] if number % 5 == 0 else []
    for turn in range(1 + number % 3):
        messages.append({"role": "user", "content": f"Row {number}, turn {turn}?"})
        messages.append({"role": "assistant", "content": f"{facts[: 8 * (1 + number % 4)]} = {number}"})
    return messages


CONVERSATIONS = [conversation(number) for number in range(100)]


@pytest.fixture(scope="module")
def rows():
    return Dataset.from_list(
        [{"messages": messages, "where": f"line {i}"} for i, messages in enumerate(CONVERSATIONS)]
    )


@pytest.fixture(scope="module")
def packed(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return {arm: pack_conversations(rows, tokenizer_of(arm), folder / arm, MAX_LENGTH, seed=3) for arm in ARMS}


def texts(dataset, arm):
    """Of each item, the conversations as text, each to its own end."""
    tokenizer = tokenizer_of(arm)
    for item in dataset:
        ends = np.cumsum(item["seq_lengths"])
        yield [
            tokenizer.decode(item["input_ids"][end - length : end])
            for end, length in zip(ends, item["seq_lengths"], strict=True)
        ]


def row_numbers(dataset, arm):
    return [[int(text.split("Row ")[1].split(",")[0]) for text in item] for item in texts(dataset, arm)]


def test_arms_have_the_same_packs_though_their_lengths_differ(packed):
    plain, injected = (packed[arm] for arm in ARMS)
    assert row_numbers(plain.dataset, "baseline") == row_numbers(injected.dataset, "mul_tokens")
    assert plain.dataset["plain_tokens"][:] == injected.dataset["plain_tokens"][:]
    lengths = [[sum(item) for item in each.dataset["seq_lengths"][:]] for each in (plain, injected)]
    # By its own lengths the second arm would put more into an item.
    following = [each["seq_lengths"][0] for each in injected.dataset][1:]
    assert any(length + next_row <= MAX_LENGTH for length, next_row in zip(lengths[1], following, strict=False))


def test_arms_keep_and_cut_the_same_rows(packed):
    plain, injected = (dict(packed[arm].summary) for arm in ARMS)
    assert plain["facts"] == 0 < injected["facts"]
    assert injected["tokens"] < plain["tokens"] == plain["plain_tokens"]
    for summary in (plain, injected):
        for key in ("tokens", "supervised_tokens", "facts"):
            del summary[key]
    assert plain == injected
    assert plain["shortened"] > 5


def test_rows_come_once_in_the_order_of_the_seed(packed):
    order = [number for item in row_numbers(packed["baseline"].dataset, "baseline") for number in item]
    assert order == shuffled(len(CONVERSATIONS), 3, epoch=0).tolist()


@pytest.mark.parametrize("arm", ARMS)
def test_labels_are_the_ids_where_replies_stand_and_nothing_elsewhere(packed, arm):
    order = iter(shuffled(len(CONVERSATIONS), 3, epoch=0).tolist())
    for item in packed[arm].dataset:
        conversations = [CONVERSATIONS[next(order)] for _ in range(item["rows"])]
        encoded = [encode_conversation(each, tokenizer_of(arm)).shortened(MAX_LENGTH) for each in conversations]
        assert item["input_ids"] == np.concatenate([each.input_ids for each in encoded]).tolist()
        expected = [np.where(each.completion_mask, each.input_ids, IGNORED) for each in encoded]
        assert item["labels"] == np.concatenate(expected).tolist()
        assert item["seq_lengths"] == [len(each.input_ids) for each in encoded]
        ends = np.sum([each.ends[-1] for each in encoded], axis=0).tolist()
        assert [item[key] for key in ("plain_tokens", "plain_bytes", "supervised_bytes")] == ends[1:]


def test_every_conversation_ends_with_a_learnt_end_of_text(packed):
    for item in packed["mul_tokens"].dataset:
        lasts = np.cumsum(item["seq_lengths"]) - 1
        assert [item["labels"][last] for last in lasts] == [END_OF_TEXT_ID] * item["rows"]


def test_item_is_full_when_the_next_row_does_not_fit(packed):
    items = list(packed["baseline"].dataset)
    assert all(item["plain_tokens"] <= MAX_LENGTH for item in items)
    for item, following in pairwise(items):
        assert item["plain_tokens"] + following["seq_lengths"][0] > MAX_LENGTH
    assert any(item["rows"] > 1 for item in items)


def test_summary_adds_up(packed):
    for arm in ARMS:
        dataset, summary = packed[arm]
        assert summary["items"] == len(dataset)
        assert summary["rows"] == summary["kept"] == sum(dataset["rows"]) == len(CONVERSATIONS)
        assert summary["tokens"] == sum(map(len, dataset["input_ids"]))
        assert summary["plain_tokens"] == sum(dataset["plain_tokens"])
        assert summary["supervised_tokens"] == sum(
            label != IGNORED for labels in dataset["labels"] for label in labels
        )
        assert summary["bytes"] == sum(dataset["plain_bytes"])
        assert summary["supervised_bytes"] == sum(dataset["supervised_bytes"])


def test_without_packing_each_row_is_an_item(rows, tmp_path, packed):
    alone = pack_conversations(rows, tokenizer_of("mul_tokens"), tmp_path, MAX_LENGTH, seed=3, packing=False)
    assert alone.dataset["rows"][:] == [1] * len(CONVERSATIONS)
    flat = [ids for item in packed["mul_tokens"].dataset["input_ids"] for ids in item]
    assert [ids for item in alone.dataset["input_ids"] for ids in item] == flat
    assert alone.summary == packed["mul_tokens"].summary | {"items": len(CONVERSATIONS)}


def test_same_arguments_write_the_same_bytes(rows, tmp_path, packed):
    for _ in range(2):
        pack_conversations(rows, tokenizer_of("baseline"), tmp_path, MAX_LENGTH, seed=4)
        pack_conversations(rows, tokenizer_of("baseline"), tmp_path / "again", MAX_LENGTH, seed=4)
        for name in ("items.arrow", "summary.json"):
            assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert open_packed(tmp_path).dataset[:] != packed["baseline"].dataset[:]


def test_what_was_written_is_opened_again(rows, tmp_path):
    written = pack_conversations(rows, tokenizer_of("baseline"), tmp_path, MAX_LENGTH)
    opened = open_packed(tmp_path)
    assert opened.dataset[:] == written.dataset[:] and opened.summary == written.summary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.arrow", "summary.json"]


def test_batches_of_the_work_change_nothing(rows, tmp_path, packed, monkeypatch):
    monkeypatch.setattr(packing_conversations, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(packing_conversations, "_ITEMS_AT_ONCE", 3)
    again = pack_conversations(rows, tokenizer_of("mul_tokens"), tmp_path, MAX_LENGTH, seed=3)
    assert again.dataset[:] == packed["mul_tokens"].dataset[:]
    assert again.summary == packed["mul_tokens"].summary


@pytest.fixture(scope="module")
def rows_with_a_long_one(rows):
    text = "6*9=54 " * 8  # 48 plain tokens or more, and few once they are injected
    long = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return Dataset.from_list([*rows, {"messages": long, "where": "line 100"}])


@pytest.mark.parametrize("arm", ARMS)
def test_row_that_is_too_long_is_named_with_its_length_in_both_arms(rows_with_a_long_one, tmp_path, arm):
    length = encode_conversation(rows_with_a_long_one[100]["messages"], tokenizer_of("baseline")).plain_tokens
    assert len(encode_conversation(rows_with_a_long_one[100]["messages"], tokenizer_of("mul_tokens")).input_ids) < 45
    message = (
        f"line 100 .*6\\*9=54.* takes {length} tokens, and max_length is 45; raise max_length, or set too_long: drop"
    )
    with pytest.raises(ValueError, match=message):
        pack_conversations(rows_with_a_long_one, tokenizer_of(arm), tmp_path, 45)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_too_long_are_dropped_and_counted_in_both_arms(rows_with_a_long_one, tmp_path):
    shas = set()
    for arm in ARMS:
        dataset, summary = pack_conversations(
            rows_with_a_long_one, tokenizer_of(arm), tmp_path / arm, 45, too_long="drop"
        )
        assert (summary["rows"], summary["kept"], summary["too_long"]) == (101, 100, 1)
        assert sum(dataset["rows"]) == 100
        shas.add(summary["sha256"])
    assert len(shas) == 1


def test_hash_tells_rows_and_their_order_apart(rows, tmp_path):
    changed = Dataset.from_list([*rows.select(range(99)), {"messages": conversation(100), "where": "line 99"}])
    hashes = [
        pack_conversations(each, tokenizer_of("baseline"), tmp_path, MAX_LENGTH, seed=seed).summary["sha256"]
        for each, seed in ((rows, 0), (rows, 1), (changed, 0))
    ]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 8, "too_long": "drop"}, "none of 100 rows is left to train on .100 are longer than 8 tokens"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 45, "too_long": "cut"}, "too_long is 'cut'; choose error or drop"),
    ],
)
def test_options_that_leave_nothing_or_make_no_sense_are_refused(rows, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        pack_conversations(rows, tokenizer_of("baseline"), tmp_path, **options)


def test_row_without_a_name_is_named_by_its_number(tmp_path):
    unnamed = Dataset.from_list([{"messages": conversation(number)} for number in range(3)])
    with pytest.raises(ValueError, match="^row [0-2] "):
        pack_conversations(unnamed, tokenizer_of("baseline"), tmp_path, 5)


def test_summary_is_plain_json(packed):
    assert json.loads(json.dumps(packed["mul_tokens"].summary)) == packed["mul_tokens"].summary
