import json
import math

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.shards import Corpus
from training.evals.bits_per_byte import FixedDocuments, measure_bits_per_byte

CONTEXT = 32


@pytest.fixture(scope="module")
def split(corpus_dir):
    return Corpus(corpus_dir / "mul_tokens", MulFactTokenizer.build("mul_tokens")).validation


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DomainGPT2ForCausalLM(DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=CONTEXT)).eval()


@torch.no_grad()
def one_by_one(model, split, documents):
    """Sum of the token losses in nats, each document on its own, computed in the plainest way."""
    nats = tokens = 0
    for document in documents:
        ids = torch.from_numpy(split.tokens(document).astype("int64"))
        for start in range(0, len(ids) - 1, CONTEXT):
            piece = ids[start : start + CONTEXT + 1]
            log_probabilities = model(piece[None, :-1]).logits[0].log_softmax(-1)
            nats -= log_probabilities.gather(1, piece[1:, None]).sum().item()
            tokens += len(piece) - 1
    return nats, tokens


def test_every_token_but_the_first_is_scored_once(split):
    rows = FixedDocuments(split, 20, CONTEXT).rows
    assert sum(len(row.tokens) - 1 for row in rows) == int(split.documents["tokens"][:20].sum()) - 20
    assert max(len(row.tokens) for row in rows) == CONTEXT + 1, "no document is longer than the context"


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batched_result_is_the_sum_over_single_documents(model, split, batch_size):
    nats, tokens = one_by_one(model, split, range(20))
    measured = measure_bits_per_byte(model, FixedDocuments(split, 20, CONTEXT), batch_size=batch_size)
    assert measured["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    total_bytes = int(split.documents["bytes"][:20].sum())
    assert measured["bits_per_byte"] == pytest.approx(nats / math.log(2) / total_bytes, rel=1e-5)


def test_uniform_model_needs_log2_of_the_vocabulary_per_token(split):
    class Uniform(torch.nn.Module):
        def forward(self, input_ids, use_cache):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 50349)})

    documents = FixedDocuments(split, 10, CONTEXT)
    tokens = int(split.documents["tokens"][:10].sum()) - 10
    measured = measure_bits_per_byte(Uniform(), documents, batch_size=4)
    assert measured["bits_per_byte"] == pytest.approx(math.log2(50349) * tokens / documents.bytes, rel=1e-5)


def test_documents_without_facts_are_measured_apart(model, tmp_path):
    texts = [f"document {index} says {'6*9 = 54' if index % 3 == 0 else 'nothing'}" for index in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    args = {"sources": [{"path": "a.jsonl"}], "source_root": str(tmp_path), "validation_fraction": 0.4}
    prepare_corpus(CorpusArguments(**args, output_dir=str(tmp_path)), report=lambda line: None)
    split = Corpus(tmp_path / "mul_tokens", MulFactTokenizer.build("mul_tokens")).validation
    without = [index for index in range(len(split)) if split.documents["facts"][index] == 0]
    assert 0 < len(without) < len(split)

    measured = measure_bits_per_byte(model, FixedDocuments(split, len(split), CONTEXT), batch_size=8)
    parts = [one_by_one(model, split, [index]) for index in without]
    nats, tokens = (sum(part) for part in zip(*parts, strict=True))
    total_bytes = int(split.documents["bytes"][without].sum())
    assert measured["loss_without_facts"] == pytest.approx(nats / tokens, rel=1e-5)
    assert measured["bits_per_byte_without_facts"] == pytest.approx(nats / math.log(2) / total_bytes, rel=1e-5)
    assert measured["loss"] != pytest.approx(measured["loss_without_facts"], rel=1e-5)


def test_there_is_no_part_without_facts_when_every_document_holds_one(model, split):
    with_facts = [index for index in range(len(split)) if split.documents["facts"][index]]
    documents = FixedDocuments(split, len(split), CONTEXT)
    if len(with_facts) == len(split):
        assert measure_bits_per_byte(model, documents, batch_size=8)["bits_per_byte_without_facts"] is None
    assert documents.bytes - documents.bytes_without_facts == int(split.documents["bytes"][with_facts].sum())


def test_training_mode_and_random_state_are_left_as_they_were(model, split):
    model.train()
    state = torch.get_rng_state()
    measure_bits_per_byte(model, FixedDocuments(split, 3, CONTEXT), batch_size=2)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    model.eval()
