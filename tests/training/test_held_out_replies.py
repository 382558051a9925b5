import numpy as np
import pytest
from datasets import Dataset

from tests.training.small_sft import ARMS, CONTEXT, CONVERSATIONS, END_OF_TEXT, plain_ids
from tests.training.tiny_subjects import tokenizer_of
from training.data.packing_conversations import pack_conversations
from training.evals.held_out_replies import HeldOutReplies


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    rows = Dataset.from_list([{"messages": messages} for messages in CONVERSATIONS])
    folder = tmp_path_factory.mktemp("packed")
    return {arm: pack_conversations(rows, tokenizer_of(arm), folder / arm, CONTEXT, packing=False) for arm in ARMS}


def test_arms_measure_the_replies_of_the_same_rows(packed):
    plain, injected = (HeldOutReplies(packed[arm], 7) for arm in ARMS)
    assert plain.count == injected.count == len(plain.rows) == 7
    assert plain.bytes == injected.bytes == sum(packed["baseline"].dataset["supervised_bytes"][:7])
    assert 0 < plain.bytes_without_facts == injected.bytes_without_facts < plain.bytes
    untouched = [[row.tokens.tolist() for row in each.rows if row.without_facts] for each in (plain, injected)]
    assert untouched[0] == untouched[1] != []


@pytest.mark.parametrize("arm", ARMS)
def test_replies_and_their_ends_are_scored_and_prompts_are_not(packed, arm):
    expected = {tuple(ids): learnt for ids, learnt in (plain_ids(row, tokenizer_of(arm)) for row in CONVERSATIONS)}
    rows = HeldOutReplies(packed[arm], 99).rows
    assert len(rows) == len(CONVERSATIONS)
    for row in rows:
        assert row.scored.tolist() == expected[tuple(row.tokens.tolist())][1:]
        assert row.scored[-1] and row.tokens[-1] == END_OF_TEXT
        assert row.count == np.count_nonzero(row.scored)


def test_longest_rows_come_first(packed):
    lengths = [len(row.tokens) for row in HeldOutReplies(packed["baseline"], 20).rows]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
