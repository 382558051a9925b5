"""What makes the comparison valid: the arms share everything but the tokenizer."""

import json

import numpy as np
import pytest

from tests.conftest import rows_with
from tokenization import MulFactTokenizer
from tokenization.mul_facts import FIRST_FACT_ID
from training.data.packing import PackedDocuments
from training.data.shards import Corpus

ARMS = ("baseline", "mul_tokens")


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
    from training.core.recipe import parse_recipe
    from training.pretrain import main

    folder = tmp_path_factory.mktemp("arms")
    for arm in ARMS:
        argv = [
            str(recipe),
            "--condition",
            arm,
            "--output_dir",
            str(folder / "{condition}-s{seed}"),
            "--max_steps",
            "2",
        ]
        assert main(*parse_recipe([ModelArguments, DataArguments, PretrainArguments], argv)) == 0
    return {arm: folder / f"{arm}-s0" for arm in ARMS}


@pytest.mark.parametrize(
    "key", ["parameters", "initial_weights_sha256", "document_order_sha256", "training_documents", "processed_tokens"]
)
def test_arms_share(runs, key):
    baseline, mul_tokens = (json.loads((runs[arm] / "run.json").read_text())[key] for arm in ARMS)
    assert baseline == mul_tokens


def test_recipes_of_the_arms_resolve_alike_but_for_condition_and_names(runs):
    baseline, mul_tokens = (json.loads((runs[arm] / "run.json").read_text())["recipe"] for arm in ARMS)
    differing = {key for key in baseline if baseline[key] != mul_tokens[key]}
    assert differing == {"condition", "output_dir", "run_name"}


def test_arms_differ_in_what_they_learn_from(runs):
    baseline, mul_tokens = (rows_with(runs[arm], "loss") for arm in ARMS)
    assert baseline != mul_tokens


def test_vocabulary_is_the_same():
    baseline, mul_tokens = (MulFactTokenizer.build(arm) for arm in ARMS)
    assert baseline.get_vocab() == mul_tokens.get_vocab()
    assert len(baseline) == len(mul_tokens) == 50349


def test_documents_come_in_the_same_order(corpus_dir):
    orders = []
    for arm in ARMS:
        train = Corpus(corpus_dir / arm, MulFactTokenizer.build(arm)).train
        packed = PackedDocuments(train, 64, 1, data_seed=3)
        order, _ = packed._epoch(0)
        orders.append(train.documents["bytes"][order])
    assert np.array_equal(*orders)


def test_only_the_treated_arm_sees_fact_ids(corpus_dir):
    largest = {}
    for arm in ARMS:
        train = Corpus(corpus_dir / arm, MulFactTokenizer.build(arm)).train
        largest[arm] = max(int(shard.max()) for shard in train.shards)
    assert largest["baseline"] < 50257 < FIRST_FACT_ID <= largest["mul_tokens"]
