import random

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.evals import likelihood
from training.evals.likelihood import Choices, plan_batches, score
from training.evals.subject import Subject

CONTEXT = 32


@pytest.fixture(scope="module")
def subject():
    """A random model with weights large enough for the context and the positions to matter to its losses."""
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, initializer_range=0.2)
    return Subject(DomainGPT2ForCausalLM(config).eval(), MulFactTokenizer.build("baseline"))


@pytest.fixture(scope="module")
def requests():
    """Ten requests of unlike lengths, the longest of which fills the context."""
    generator = random.Random(0)

    def ids(length):
        return [generator.randrange(50257) for _ in range(length)]

    found = [
        Choices(ids(generator.randint(1, 20)), [ids(generator.randint(1, 12)) for _ in range(generator.randint(1, 5))])
        for _ in range(9)
    ]
    return [*found, Choices(ids(20), [ids(12), ids(12), ids(3)])]


@torch.no_grad()
def one_by_one(subject, requests):
    """The same, each continuation in a forward pass of its own, computed in the plainest way."""
    sums = []
    for request in requests:
        sums.append([])
        for continuation in request.continuations:
            ids = torch.tensor([request.context + continuation])
            log_probabilities = subject.model(ids[:, :-1]).logits[0].log_softmax(-1)
            nats = -log_probabilities.gather(1, ids[0, 1:, None]).squeeze(1)
            sums[-1].append(nats[len(request.context) - 1 :].double().sum().item())
    return sums


def test_shared_context_gives_what_each_continuation_gives_alone(subject, requests):
    assert max(request.row_length for request in requests) > CONTEXT, "no row is longer than the model's context"
    for together, alone in zip(score(subject, requests), one_by_one(subject, requests), strict=True):
        assert together == pytest.approx(alone, rel=1e-6, abs=1e-5)


def test_batch_and_its_padding_do_not_matter(subject, requests):
    together = score(subject, requests)
    alone = [score(subject, [request])[0] for request in requests]
    for first, second in zip(together, alone, strict=True):
        assert first == pytest.approx(second, rel=1e-6)


def test_equal_continuations_get_equal_scores_wherever_they_stand(subject):
    first, *_, last = score(subject, [Choices([7, 8, 9], [[1, 2, 3], [4], [5, 6, 7, 8], [1, 2, 3]])])[0]
    assert first == pytest.approx(last, rel=1e-6)


def test_eager_attention_reads_the_same_mask(requests):
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, initializer_range=0.2)
    tokenizer = MulFactTokenizer.build("baseline")
    fused = Subject(DomainGPT2ForCausalLM(config).eval(), tokenizer)
    written_out = Subject(DomainGPT2ForCausalLM._from_config(config, attn_implementation="eager").eval(), tokenizer)
    assert written_out.model.config._attn_implementation == "eager"
    written_out.model.load_state_dict(fused.model.state_dict())
    for first, second in zip(score(fused, requests), score(written_out, requests), strict=True):
        assert first == pytest.approx(second, rel=1e-5)


def count_head_positions(subject, requests):
    calls = []
    hook = subject.model.lm_head.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    score(subject, requests)
    hook.remove()
    return calls


def test_only_predicting_positions_go_through_the_head_and_shared_ones_once(subject, requests):
    expected = sum(1 + sum(len(tokens) - 1 for tokens in request.continuations) for request in requests)
    assert sum(count_head_positions(subject, requests)) == expected
    one_token_each = [Choices([5, 6, 7], [[token] for token in range(40)])]
    assert count_head_positions(subject, one_token_each) == [1]


def test_head_in_chunks_gives_the_same(subject, requests, monkeypatch):
    whole = score(subject, requests)
    monkeypatch.setattr(likelihood, "HEAD_BYTES", 7 * 2 * 4 * subject.model.config.vocab_size)
    calls = count_head_positions(subject, requests)
    assert len(calls) > 2 and max(calls) == 7
    for first, second in zip(score(subject, requests), whole, strict=True):
        assert first == pytest.approx(second, rel=1e-6)


def test_bf16_changes_the_forward_pass_and_not_the_precision_of_the_sum(subject, requests):
    in_bf16 = score(Subject(subject.model, subject.tokenizer, bf16=True), requests)
    flat = [nats for found in in_bf16 for nats in found]
    expected = [nats for found in one_by_one(subject, requests) for nats in found]
    assert flat != pytest.approx(expected, rel=1e-6), "nothing ran in bf16"
    assert flat == pytest.approx(expected, rel=0.02)
    # A sum in bf16 would be a multiple of its step, which is at least 1/8 from 32 nats on.
    assert any(nats * 8 % 1 for nats in flat if nats > 32)


def test_no_request_gives_no_score(subject):
    assert score(subject, []) == []


def test_request_as_long_as_the_context_fits_and_one_token_more_does_not(subject):
    score(subject, [Choices([1] * (CONTEXT - 5), [[2] * 5])])
    with pytest.raises(ValueError, match=r"request 1 has 28 tokens of context and up to 5 .* context is 32"):
        score(subject, [Choices([1], [[2]]), Choices([1] * 28, [[2], [2] * 5])])


@pytest.mark.parametrize(
    "request_, problem",
    [
        (Choices([], [[1]]), "empty context"),
        (Choices([1], [[2], []]), "empty continuation"),
        (Choices([1], []), "nothing to score"),
    ],
)
def test_nothing_to_predict_from_or_to_predict_is_an_error(subject, request_, problem):
    with pytest.raises(ValueError, match=problem):
        score(subject, [request_])


@pytest.mark.parametrize("batch_tokens", [1, 60, 150, 10_000])
def test_each_request_is_in_one_batch_whose_padded_size_is_bounded(requests, batch_tokens):
    batches = plan_batches(requests, batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(requests)))
    for batch in batches:
        area = max(requests[index].row_length for index in batch) * len(batch)
        assert area <= batch_tokens or len(batch) == 1


def test_longest_requests_come_first_and_equal_ones_in_their_order(requests):
    doubled = requests + requests
    planned = [index for batch in plan_batches(doubled, 100) for index in batch]
    assert planned == sorted(range(len(doubled)), key=lambda index: (-doubled[index].row_length, index))
