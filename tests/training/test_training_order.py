import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.training.small_sft import ARMS, CONTEXT, CONVERSATIONS
from tests.training.tiny_subjects import tokenizer_of
from training.data.packing_conversations import IGNORED, PackedConversations, pack_conversations
from training.data.training_order import StackItems, TrainingOrder

CONFIG = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT)
WORK = ("rows", "tokens", "bytes", "supervised_bytes", "flops")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    rows = Dataset.from_list([{"messages": messages} for messages in CONVERSATIONS])
    folder = tmp_path_factory.mktemp("packed")
    return {arm: pack_conversations(rows, tokenizer_of(arm), folder / arm, CONTEXT) for arm in ARMS}


def order_of(packed, arm="mul_tokens", batch=4, epochs=2.0, max_steps=-1, data_seed=0):
    return TrainingOrder(packed[arm], CONFIG, batch, epochs, max_steps, data_seed)


def numbers(packed, order, arm="mul_tokens"):
    """Which items are read, by their number."""
    place = {tuple(ids): number for number, ids in enumerate(packed[arm].dataset["input_ids"])}
    assert len(place) == order.items
    return [place[tuple(ids)] for ids in order.dataset["input_ids"]]


def test_every_item_is_read_once_per_epoch(packed):
    order = order_of(packed, batch=1, epochs=3)
    read = np.array(numbers(packed, order)).reshape(3, -1)
    assert all(sorted(epoch) == list(range(order.items)) for epoch in read.tolist())
    assert len({tuple(epoch) for epoch in read.tolist()}) == 3


def test_order_depends_on_the_data_seed(packed):
    first, again, other = (numbers(packed, order_of(packed, data_seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_steps_go_on_across_the_end_of_an_epoch(packed):
    few, many = order_of(packed, batch=7, epochs=1), order_of(packed, batch=7, epochs=3)
    assert few.items % 7
    assert numbers(packed, many)[: 7 * few.steps] == numbers(packed, few)


def test_epochs_are_read_at_least_as_often_as_asked_for(packed):
    order = order_of(packed, batch=4, epochs=1.5)
    assert (order.steps - 1) * 4 < 1.5 * order.items <= order.steps * 4
    assert order.epochs == order.epoch(order.steps) == order.steps * 4 / order.items >= 1.5
    assert len(order.dataset) == order.steps * 4


def test_max_steps_takes_the_place_of_epochs(packed):
    order = order_of(packed, batch=5, epochs=9.0, max_steps=3)
    assert (order.steps, len(order.dataset)) == (3, 15)
    assert order.epoch(1) == 5 / order.items


def test_work_adds_up_what_the_steps_have_read(packed):
    order = order_of(packed, batch=3, epochs=2)
    assert order.work(0) == dict.fromkeys(WORK, 0)
    done = dict.fromkeys(WORK, 0)
    for step in range(order.steps):
        for item in order.dataset.select(range(3 * step, 3 * step + 3)):
            done["rows"] += item["rows"]
            done["tokens"] += len(item["input_ids"])
            done["bytes"] += item["plain_bytes"]
            done["supervised_bytes"] += item["supervised_bytes"]
            done["flops"] += sum(length * CONFIG.flops_per_token(length) for length in item["seq_lengths"])
        assert order.work(step + 1) == done


def test_work_of_a_large_run_does_not_overflow(packed):
    large = DomainGPT2Config(n_layer=2, n_embd=2**20, n_head=1)
    order = TrainingOrder(packed["baseline"], large, len(packed["baseline"].dataset), 1.0, 500, 0)
    assert order.work(500)["flops"] == 500 * order.work(1)["flops"] > 2**63


def test_arms_read_the_same_rows_and_bytes_in_the_same_steps(packed):
    plain, injected = (order_of(packed, arm) for arm in ARMS)
    assert plain.steps == injected.steps
    assert numbers(packed, plain, "baseline") == numbers(packed, injected)
    for step in range(plain.steps + 1):
        one, other = plain.work(step), injected.work(step)
        assert all(one[key] == other[key] for key in ("rows", "bytes", "supervised_bytes"))
    assert injected.work(injected.steps)["tokens"] < plain.work(plain.steps)["tokens"]
    assert injected.work(injected.steps)["flops"] < plain.work(plain.steps)["flops"]


def test_one_item_can_be_a_whole_run(packed):
    alone = PackedConversations(packed["baseline"].dataset.select([0]).flatten_indices(), {})
    order = TrainingOrder(alone, CONFIG, 2, 1.0, 3, 0)
    assert len(order.dataset) == 6 and order.epochs == 6


@pytest.fixture(scope="module")
def stacked(packed):
    items = [item for item in packed["mul_tokens"].dataset if item["rows"] > 1][:3]
    return items, StackItems(pad_id=50257)(items)


def test_items_stand_in_rows_at_least_as_wide_as_the_longest(stacked):
    items, batch = stacked
    longest = max(len(item["input_ids"]) for item in items)
    assert {tuple(values.shape) for values in batch.values()} == {batch["input_ids"].shape}
    assert len(batch["input_ids"]) == 3 and longest <= batch["input_ids"].shape[1] < longest + 32
    assert {name: values.dtype for name, values in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "position_ids"), torch.int64
    )
    for row, item in enumerate(items):
        size = len(item["input_ids"])
        assert batch["input_ids"][row, :size].tolist() == item["input_ids"]
        assert batch["labels"][row, :size].tolist() == item["labels"]


def test_positions_begin_again_at_each_conversation(stacked):
    items, batch = stacked
    for row, item in enumerate(items):
        ends = np.cumsum(item["seq_lengths"])
        for end, length in zip(ends, item["seq_lengths"], strict=True):
            assert batch["position_ids"][row, end - length : end].tolist() == list(range(length))


def test_padding_begins_no_conversation_and_has_no_labels(stacked):
    items, batch = stacked
    width = batch["input_ids"].shape[1]
    sizes = [len(item["input_ids"]) for item in items]
    assert min(sizes) < width
    for row, size in enumerate(sizes):
        assert batch["input_ids"][row, size:].tolist() == [50257] * (width - size)
        assert batch["labels"][row, size:].tolist() == [IGNORED] * (width - size)
        assert not batch["position_ids"][row, size:].any()


def test_padding_stays_within_the_context_of_the_model():
    """A batch is a multiple of 32 wide, and the context of a model need not be one."""
    items = [{"input_ids": [7] * size, "labels": [7] * size, "seq_lengths": [size]} for size in (33, 1)]
    assert StackItems(pad_id=0)(items)["position_ids"].max() == 32


def test_padding_changes_nothing_for_the_conversations(packed):
    torch.manual_seed(0)
    model = DomainGPT2ForCausalLM(CONFIG).eval()
    items = sorted(packed["baseline"].dataset, key=lambda item: len(item["input_ids"]))
    alone, beside_a_longer_one = StackItems(50257)(items[:1]), StackItems(50257)([items[0], items[-1]])
    size = len(items[0]["input_ids"])
    assert beside_a_longer_one["input_ids"].shape[1] > alone["input_ids"].shape[1]
    with torch.no_grad():
        logits = [
            model(batch["input_ids"], position_ids=batch["position_ids"]).logits[0, :size]
            for batch in (alone, beside_a_longer_one)
        ]
    torch.testing.assert_close(*logits)
