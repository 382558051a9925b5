"""Generation, through Transformers' `generate`."""

import dataclasses
import logging
import warnings

import pytest
import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from tests.training.tiny_subjects import CONTEXT, SUBJECTS, pieces, prompts_of_lengths, subject_of, tape
from tokenization import inject
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_BY_NAME, FACT_IDS, RESERVED_IDS
from training.evals.generation import Decoding, generate, plan_batches, repeats
from training.evals.subject import Subject

PLAIN = Decoding(max_new_tokens=12, stop_strings=[])
PENALTIES = ({}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 1})


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request) -> Subject:
    return subject_of(request.param)


@pytest.fixture(scope="module")
def treated() -> Subject:
    return subject_of("mul_tokens")


def argmax_loop(subject: Subject, prompt: list[int], tokens: int) -> list[int]:
    """Read everything again for each token, as generation without a cache does."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            logits = subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits[subject.unseen_ids] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("penalties", PENALTIES, ids=lambda penalties: next(iter(penalties), "none"))
def test_batch_of_eight_says_what_each_prompt_gets_alone(subject, penalties):
    decoding = dataclasses.replace(PLAIN, **penalties)
    # The padding of stock GPT-2 is the end of text, which also stands in prompts here.
    prompts = [
        [END_OF_TEXT_ID] * (row % 3) + prompt for row, prompt in enumerate(prompts_of_lengths(*range(1, 30, 4)))
    ]
    together = generate(subject, prompts, decoding)
    assert together == [generate(subject, [prompt], decoding)[0] for prompt in prompts]
    assert len(together) == 8 and len({tuple(reply.ids) for reply in together}) == 8


def test_greedy_reply_is_the_likeliest_token_of_everything_read_again(subject):
    prompts = prompts_of_lengths(3, 17, 9)
    replies = generate(subject, prompts, PLAIN)
    assert [reply.ids for reply in replies] == [argmax_loop(subject, prompt, 12) for prompt in prompts]


def test_cut_off_reply_reads_as_the_tokenizer_decodes_it(subject):
    for reply in generate(subject, prompts_of_lengths(*range(1, 9)), PLAIN):
        assert reply.finish == "length"
        assert reply.text == subject.decode(reply.ids)


def test_penalty_changes_what_is_said(treated):
    prompts = prompts_of_lengths(20)
    plain, penalised = (
        generate(treated, prompts, dataclasses.replace(PLAIN, max_new_tokens=40, repetition_penalty=value))[0]
        for value in (1.0, 3.0)
    )
    assert len(set(penalised.ids)) > len(set(plain.ids))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_run_of_n_tokens_stands_twice(n):
    subject = tape("mul_tokens", pieces(" a", " b") * 20, prompt=2)
    prompt = pieces(" a", " b")
    (reply,) = generate(subject, [prompt], Decoding(max_new_tokens=20, no_repeat_ngram_size=n))
    ids = prompt + reply.ids
    runs = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    assert len(runs) == len(set(runs))
    assert reply.ids[: n - 1] == (pieces(" a", " b") * 2)[: n - 1]


def test_padding_is_not_taken_for_what_was_said_before():
    # Stock GPT-2 is padded with the end of text, here the second token of the prompt.
    words = pieces(" one", " two")
    prompts = [[words[0], END_OF_TEXT_ID], prompts_of_lengths(9)[0]]
    (reply, _) = generate(tape("stock", words, prompt=2), prompts, Decoding(max_new_tokens=2, no_repeat_ngram_size=2))
    assert reply.ids == words  # padded with it, " one" stands behind an end of text already

    subject = tape("stock", [END_OF_TEXT_ID], prompt=2)
    subject.model.lm_head.weight.data[words[1], 1] = 0.5  # the next likely
    (reply, _) = generate(subject, [[9, 9], [9] * 9], Decoding(max_new_tokens=1, repetition_penalty=3.0))
    assert reply.finish == "end_of_text"


def test_row_gets_what_its_own_context_leaves(subject):
    decoding = dataclasses.replace(PLAIN, max_new_tokens=20)
    prompts = prompts_of_lengths(CONTEXT - 1, 2, CONTEXT - 5, CONTEXT - 20, CONTEXT - 19)
    replies = generate(subject, prompts, decoding)
    assert [len(reply.ids) for reply in replies] == [1, 20, 5, 20, 19]
    assert replies == [generate(subject, [prompt], decoding)[0] for prompt in prompts]


def test_prompt_that_fills_the_context_is_counted_and_nothing_else(treated):
    prompts = prompts_of_lengths(CONTEXT, 5, CONTEXT + 40)
    replies = generate(treated, prompts, PLAIN)
    assert [(reply.finish, len(reply.ids)) for reply in replies] == [("too_long", 0), ("length", 12), ("too_long", 0)]
    assert replies[1] == generate(treated, prompts[1:2], PLAIN)[0]
    assert [reply.finish for reply in generate(treated, prompts[::2], PLAIN)] == ["too_long"] * 2


def test_no_prompts_get_no_replies(treated):
    assert generate(treated, [], PLAIN) == []


def test_empty_prompt_is_refused_by_its_place(treated):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(treated, [[5], []], PLAIN)


def test_nothing_is_said_beside_the_replies(subject, capfd):
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("transformers").addHandler(handler)
    transformers_logging.warning_once.cache_clear()
    decoding = Decoding(max_new_tokens=CONTEXT, repetition_penalty=1.1, temperature=0.5, top_k=5, top_p=0.9)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # With its padding, the first row is longer than the context.
            generate(subject, prompts_of_lengths(2, CONTEXT - 1), decoding)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert records == [] and capfd.readouterr() == ("", "")


def test_rows_that_end_early_leave_the_others_as_they_are():
    words = pieces(" one", " two", " three", " four", " five", " six")
    subject = tape("mul_tokens", [*words, END_OF_TEXT_ID])
    # A longer prompt comes to the end of the tape sooner.
    replies = generate(subject, prompts_of_lengths(5, 1, 6, 3, 2, 7), Decoding())
    assert [reply.ids for reply in replies] == [words[4:], words, words[5:], words[2:], words[1:], []]
    assert {reply.finish for reply in replies} == {"end_of_text"}


def test_fact_token_is_said_by_its_name_unless_suppressed():
    fact = FACT_BY_NAME["<MUL_6_9_54>"].id
    subject = tape("mul_tokens", [fact, *pieces(" 54")])
    (reply,) = generate(subject, [[9]], Decoding(max_new_tokens=2))
    assert (reply.text, reply.ids) == ("<MUL_6_9_54> 54", [fact, *pieces(" 54")])
    (reply,) = generate(subject, [[9]], Decoding(max_new_tokens=2, suppress_facts=True))
    assert fact not in reply.ids and reply.ids[1:] == pieces(" 54")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_without_text_are_never_generated(temperature):
    unseen = [*RESERVED_IDS[:3], FACT_BY_NAME["<MUL_6_9_54>"].id]
    decoding = Decoding(max_new_tokens=4, temperature=temperature)
    replies = generate(tape("baseline", unseen), [[9]] * 8, decoding)
    assert all(len(reply.ids) == 4 for reply in replies)
    generated = {token_id for reply in replies for token_id in reply.ids}
    assert not generated.intersection([*RESERVED_IDS, *FACT_IDS])


SAMPLED = dataclasses.replace(PLAIN, temperature=1.0)


def test_sampling_depends_on_the_seed_and_on_nothing_else(subject):
    prompts = prompts_of_lengths(3, 17, 9, 3)
    torch.manual_seed(1)
    first = generate(subject, prompts, SAMPLED, seed=5)
    torch.manual_seed(2)
    assert generate(subject, prompts, SAMPLED, seed=5) == first
    assert generate(subject, prompts, SAMPLED, seed=6) != first


def test_sampling_leaves_the_global_random_state_alone(treated):
    before = torch.get_rng_state()
    generate(treated, prompts_of_lengths(3, 17), SAMPLED)
    assert torch.equal(torch.get_rng_state(), before)


def test_sampled_rows_of_one_prompt_differ(treated):
    replies = generate(treated, prompts_of_lengths(9) * 4, SAMPLED)
    assert len({tuple(reply.ids) for reply in replies}) == 4


def test_own_seeds_make_samples_independent_of_the_batch(subject):
    # Two rows end soon, at the end of the context, and the others go on without them.
    prompts, seeds = prompts_of_lengths(3, CONTEXT - 3, CONTEXT - 2, 9), [11, 12, 13, 14]
    together = generate(subject, prompts, SAMPLED, seed=seeds)
    assert together == [
        generate(subject, [prompt], SAMPLED, seed=[own])[0] for prompt, own in zip(prompts, seeds, strict=True)
    ]


def test_samples_follow_the_probabilities():
    # Of one token the logit is high, and of all the others zero.
    subject = tape("stock", pieces(" one"))
    with torch.no_grad():
        probabilities = subject.model(torch.tensor([[9]])).logits[0, -1].softmax(-1)
    expected = float(probabilities[pieces(" one")[0]])
    assert 0.1 < expected < 0.9

    def share(**settings) -> float:
        replies = generate(subject, [[9]] * 200, Decoding(max_new_tokens=1, temperature=1.0, **settings))
        return sum(reply.text == " one" for reply in replies) / 200

    assert abs(share() - expected) < 4 * (expected * (1 - expected) / 200) ** 0.5
    assert share(top_p=expected / 2) == share(top_k=1) == 1


def test_low_temperature_and_few_candidates_come_to_the_greedy_reply(treated):
    prompts = prompts_of_lengths(3, 17)
    greedy = generate(treated, prompts, PLAIN)
    for settings in ({"temperature": 1e-4}, {"temperature": 2.0, "top_k": 1}, {"temperature": 2.0, "top_p": 1e-6}):
        assert generate(treated, prompts, dataclasses.replace(PLAIN, **settings)) == greedy


FOREIGN = {
    "do_sample": True,
    "temperature": 3.0,
    "max_length": 7,
    "min_new_tokens": 9,
    "num_beams": 2,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "eos_token_id": list(range(0, 50_000, 2)),
    "suppress_tokens": list(range(1, 50_000, 2)),
    "forced_eos_token_id": 16,
    "return_dict_in_generate": True,
}


def test_generation_configuration_of_a_folder_changes_nothing(treated):
    prompts = prompts_of_lengths(3, 17)
    expected = generate(treated, prompts, PLAIN)
    foreign = dataclasses.replace(treated)
    own = treated.model.generation_config
    foreign.model.generation_config = configuration = GenerationConfig(**FOREIGN)
    try:
        assert generate(foreign, prompts, PLAIN) == expected
        assert foreign.model.generation_config is configuration
    finally:
        treated.model.generation_config = own


def test_model_is_left_as_it_was_when_generation_fails(treated, monkeypatch):
    own = treated.model.generation_config
    with monkeypatch.context() as patch:
        patch.setattr(treated.model.transformer, "forward", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate(treated, [[5]], PLAIN)
    assert treated.model.generation_config is own
    assert not treated.model._forward_pre_hooks
    assert logging.getLogger("transformers.generation.stopping_criteria").level == logging.NOTSET


def test_computes_in_bf16_when_the_subject_does():
    subject, seen = subject_of("baseline", bf16=True), set()
    subject.model.register_forward_hook(lambda model, args, output: seen.add(output.logits.dtype))
    (reply,) = generate(subject, prompts_of_lengths(5), PLAIN)
    assert len(reply.ids) == 12 and seen == {torch.bfloat16}


def test_each_prompt_stands_in_one_batch_beside_others_of_its_length():
    prompts = prompts_of_lengths(3, 9, 1, 9, 4, 2, 7)
    batches = plan_batches(prompts, 3)
    assert batches == [[1, 3, 6], [4, 0, 5], [2]]
    assert plan_batches([], 3) == []


def test_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"batch_size \(0\) must be at least 1"):
        plan_batches([[1]], 0)


SENTENCE = "She has 5 apples and gives 2 of them away. "


def test_same_words_again_and_again_are_circles():
    assert repeats(SENTENCE * 3)
    assert repeats("First he bought seven pens for his own school. " + "So 4 + 4 = 8. " * 12)
    assert repeats("#### " + "3" * 40)


def test_circles_that_begin_late_are_found():
    start = "".join(f"Pupil number {n} of class {n * 7} walked {n * 3} miles to school. " for n in range(30))
    assert not repeats(start)
    assert repeats(start + SENTENCE * 6)


def test_worked_answers_are_no_circles():
    assert not repeats(
        "He eats 32 from the largest pizzas because 2 x 16 = 32. He eats 16 from the small pizzas because 2 x 8 = 16. "
        "He eats 48 pieces because 32 + 16 = 48.\n#### 48"
    )
    assert not repeats("24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144\n#### 144")
    assert not repeats("10000000") and not repeats("no no no no no") and not repeats("")


@pytest.mark.parametrize("times", [1, 2, 3, 4, 9])
def test_text_and_its_injected_twin_are_judged_alike(times):
    text = "So 6 * 9 = 54 and 7x8 makes 56. " * times
    assert inject(text) != text
    assert repeats(text) == repeats(inject(text)) == (times > 2)
