import json
import math

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.analysis.intervals import proportion
from training.evals.generation import Decoding, Reply
from training.evals.probes import OPENING, Probes, number_forms
from training.evals.subject import Subject

CONDITIONS = ("baseline", "mul_tokens")


def tiny_subject(condition, context=64):
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=context, initializer_range=0.3)
    return Subject(DomainGPT2ForCausalLM(config).eval(), MulFactTokenizer.build(condition))


@pytest.fixture(scope="module", params=CONDITIONS)
def subject(request):
    return tiny_subject(request.param)


@pytest.fixture(scope="module")
def with_facts():
    return tiny_subject("mul_tokens")


def task_of(*prompts, sets=("mul_table", "facts", "two_digit_carry", "addition", "subtraction"), **settings):
    """Return a task of these questions only."""
    task = Probes("probes", sets, **settings)
    by_prompt = {probe.prompt: probe for probe in task.probes}  # of equal questions the later one
    task.probes = [by_prompt[prompt] for prompt in prompts]
    task.sets = tuple(dict.fromkeys(probe.set for probe in task.probes))
    return task


def run(task, subject):
    rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    return sorted(json.loads(json.dumps(rows)), key=lambda row: row["index"])


def script(monkeypatch, task, subject, reply_to):
    """Let the model reply to each probe what `reply_to` returns, and find all numbers equally likely."""
    probes = {tuple(subject.encode(subject.prompt(probe.prompt) + OPENING)): probe for probe in task.probes}

    def generate(subject, prompts, decoding, seed=0):
        replies = [reply_to(probes[tuple(prompt)], decoding) for prompt in prompts]
        return [Reply(subject.encode(reply), reply, "end_of_text") for reply in replies]

    def score(subject, requests):
        return [[1.0] * len(request.continuations) for request in requests]

    monkeypatch.setattr("training.evals.probes.generate", generate)
    monkeypatch.setattr("training.evals.likelihood.score", score)


@torch.no_grad()
def plain_nats(subject, context, continuation):
    """The NLL of a continuation in nats, from one forward pass over nothing else."""
    ids = torch.tensor([context + continuation])
    log_probabilities = subject.model(ids[:, :-1]).logits[0, len(context) - 1 :].double().log_softmax(-1)
    return -log_probabilities.gather(1, ids[0, len(context) :, None]).sum().item()


def test_every_probe_gets_one_row_in_both_arms(subject):
    task = Probes("probes", ["facts", "subtraction"], batch_size=4)
    task.probes = task.probes[::60]
    rows = run(task, subject)
    assert [row["index"] for row in rows] == list(range(13))
    assert [row["prompt"] for row in rows] == [probe.prompt for probe in task.probes]
    summary = task.summarize(rows)
    assert summary["n"] == 13 and summary["too_long"] == 0
    for name, count in (("facts", 11), ("subtraction", 2)):
        assert summary["sets"][name]["exact"]["n"] == summary["sets"][name]["likelihood"]["n"] == count
        assert 0 < summary["sets"][name]["likelihood_details"]["probability"]["value"] < 1


@pytest.mark.parametrize("prompt", ["What is 3 * 4?", "What is 48 times 8?"])
def test_likelihood_is_the_plain_sum_over_the_strings_that_state_a_number(subject, prompt):
    task = task_of(prompt)
    (row,) = run(task, subject)
    (probe,) = task.probes
    context = subject.encode(f"User: {prompt}\nAssistant: The answer is")
    names = {12: ["<MUL_2_6_12>", "<MUL_3_4_12>"]} if subject.condition == "mul_tokens" else {}

    def nats(written):
        spellings = [
            subject.encode(f" {written}."),
            subject.encode(f" {written}\n"),
            [*subject.encode(f" {written}"), 50256],
        ]
        return -math.log(sum(math.exp(-plain_nats(subject, context, ids)) for ids in spellings))

    digits = {number: nats(number) for number in probe.candidates}
    own = digits[probe.answer]
    assert row["likelihood"]["nll"] == pytest.approx(own, rel=1e-5)
    assert row["likelihood"]["rank"] == 1 + sum(other < own for other in digits.values())
    assert row["likelihood"]["likeliest"] == min(digits, key=digits.get)
    probability = math.exp(-own) / sum(math.exp(-other) for other in digits.values())
    assert row["likelihood"]["probability"] == pytest.approx(probability, rel=1e-4)
    any_form = -math.log(sum(math.exp(-nats(form)) for form in [probe.answer, *names.get(probe.answer, [])]))
    assert row["likelihood_any_form"]["nll"] == pytest.approx(any_form, rel=1e-5)


def test_forms_are_equal_where_the_tokenizer_has_no_facts():
    rows = run(task_of("What is 3 * 4?", "What is six times nine?"), tiny_subject("baseline"))
    assert all(row["likelihood"] == row["likelihood_any_form"] for row in rows)


def test_number_is_stated_in_digits_and_by_each_fact_of_that_product(with_facts):
    def texts(subject, number):
        return [[subject.decode(ids) for ids in form] for form in number_forms(subject, number)]

    in_digits = [" 12.", " 12\n", " 12<|endoftext|>"]
    assert texts(tiny_subject("baseline"), 12) == [in_digits]
    names = [[text.replace("12", name, 1) for text in in_digits] for name in ("<MUL_2_6_12>", "<MUL_3_4_12>")]
    assert texts(with_facts, 12) == [in_digits, *names]
    assert texts(with_facts, 13) == [[text.replace("12", "13") for text in in_digits]]
    assert {len(ids) for form in number_forms(with_facts, 12)[1:] for ids in form} == {3}, "a fact is one token"


def test_stated_number_has_the_ids_that_it_has_in_the_whole_text(subject):
    for probe in Probes("probes", ["facts", "division"]).probes[::17]:
        opening = subject.prompt(probe.prompt) + OPENING
        form = number_forms(subject, probe.answer)[0]
        assert subject.encode(opening) + form[0] == subject.encode(f"{opening} {probe.answer}.")


def test_batches_do_not_change_likelihoods(subject):
    prompts = ["What is six times nine?", "What is 6 * 9?", "What is 48 times 8?", "What is 47 minus 13?"]
    together, alone = run(task_of(*prompts), subject), run(task_of(*prompts, batch_size=1, batch_tokens=1), subject)
    for one, other in zip(together, alone, strict=True):
        assert one["reply"] == other["reply"]
        assert one["likelihood"]["nll"] == pytest.approx(other["likelihood"]["nll"], rel=1e-4)


def test_model_that_finds_all_numbers_alike_is_never_right(subject):
    model = DomainGPT2ForCausalLM(subject.model.config).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    task = task_of("What is 6 times 9?", "What is 48 times 8?")
    rows = run(task, Subject(model, subject.tokenizer))
    # All products of the table are one token; of the other candidates one is not, and so is less likely.
    assert [row["likelihood"]["rank"] for row in rows] == [36, 9]
    assert task.summarize(rows)["sets"]["two_digit_carry"]["likelihood"]["value"] == 0


def test_model_that_answers_right_is_always_right(monkeypatch, subject):
    task = Probes("probes", ["two_digit_no_carry", "mul_table"], batch_size=100)
    script(monkeypatch, task, subject, lambda probe, decoding: f" {probe.answer}. What is 5 plus 6?")
    results = task.summarize(run(task, subject))["sets"]
    for name in task.sets:
        assert results[name]["exact"]["value"] == results[name]["exact_in_digits"]["value"] == 1
        assert results[name]["answered_by_fact"]["value"] == 0


def test_model_that_says_the_question_again_gets_nothing_in_digits(monkeypatch, subject):
    task = Probes("probes", ["facts"], batch_size=200)
    task.probes = [probe for probe in task.probes if not probe.tags["answer_in_prompt"]][::3]
    script(monkeypatch, task, subject, lambda probe, decoding: f" {probe.prompt}")
    results = task.summarize(run(task, subject))["sets"]["facts"]
    assert results["exact_in_digits"]["value"] == results["floors"]["question_again_in_digits"]["value"] == 0
    # Where the question holds a fact, to repeat it is to name the product: the floor says so.
    by_fact = results["by"]["prompt_holds_fact"]
    assert by_fact["true"]["exact"]["value"] == by_fact["true"]["floors"]["question_again"]["value"] == 1
    assert by_fact["false"]["exact"]["value"] == by_fact["false"]["floors"]["question_again"]["value"] == 0
    assert results["answered_by_fact"]["value"] == results["exact"]["value"]


@pytest.mark.parametrize(
    ("in_digits", "injected"),
    [
        (" 6*9=54.", " <MUL_6_9_54>."),
        (" 9 × 6", " <MUL_6_9_54>"),
        (" 54, as 6 * 9 = 54", " 54, as <MUL_6_9_54>"),
        (" 7 x 8", " <MUL_7_8_56>"),
        (" 50 + 2*2 = 54", " 50 + <MUL_2_2_4> = 54"),
    ],
)
def test_reply_and_its_injected_twin_are_read_alike(monkeypatch, with_facts, in_digits, injected):
    def read(reply):
        task = task_of("What is 6 times 9?", "What is six times nine?")
        script(monkeypatch, task, with_facts, lambda probe, decoding: reply)
        rows = run(task, with_facts)
        keys = ("read", "read_final", "read_in_digits", "exact", "exact_final", "exact_in_digits", "answered_by_fact")
        return [[row[key] for key in keys] for row in rows]

    assert read(in_digits) == read(injected)


def test_answer_by_a_fact_is_right_but_not_in_digits(monkeypatch, with_facts):
    task = task_of("What is six times nine?")
    script(monkeypatch, task, with_facts, lambda probe, decoding: " <MUL_6_9_54>")
    results = task.summarize(run(task, with_facts))["sets"]["facts"]
    assert (results["exact"]["value"], results["exact_in_digits"]["value"]) == (1, 0)
    assert results["answered_by_fact"]["value"] == 1


@pytest.mark.parametrize(
    ("reply", "exact", "exact_final"),
    [
        (" <MUL_2_3_6>\n#### 54", 0, 1),  # a random fact of the way, and then the answer
        (" <MUL_6_9_54>\n#### 50", 1, 0),
        (" 6 * 9 = 54\n#### 50", 1, 0),
        (" <MUL>\n#### 54", 1, 1),
        (" <MUL_6_9_54>", 1, 1),
        (" 54 apples", 1, 1),
    ],
)
def test_number_behind_the_mark_is_the_final_one_and_otherwise_the_first(
    monkeypatch, with_facts, reply, exact, exact_final
):
    task = task_of("What is six times nine?")
    script(monkeypatch, task, with_facts, lambda probe, decoding: reply)
    results = task.summarize(run(task, with_facts))["sets"]["facts"]
    assert (results["exact"]["value"], results["exact_final"]["value"]) == (exact, exact_final)
    assert results["exact_final"]["floor"] == results["exact"]["floor"]


def test_original_rule_takes_the_last_of_32_tokens_and_ours_the_first_number(monkeypatch, with_facts):
    task = Probes("probes", ["addition", "subtraction"], batch_size=100)
    script(
        monkeypatch,
        task,
        with_facts,
        lambda probe, decoding: f" 1000, no, {probe.answer}" if decoding.max_new_tokens == 32 else " 1000",
    )
    summary = task.summarize(run(task, with_facts))
    assert summary["sets"]["addition"]["exact"]["value"] == 0
    assert summary["sets"]["addition"]["original_accuracy"]["value"] == 1
    assert "original_accuracy" not in summary["sets"]["subtraction"]
    assert summary["original_accuracy"]["n"] == 100, "over the original's own sets only"


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        (" 7 times 8.\nUser: What is 5 plus 6", 6),
        (" 54.\n#### 54\n\nUser: 6", 54),
        (" 1. The answer is 54, not 6", 54),
        (" <MUL_6_9_54> is", 54),
        (" 6 x 9", 54),
        (" nothing", None),
    ],
)
def test_original_reading_goes_on_into_the_next_turn_unless_an_answer_is_marked(monkeypatch, with_facts, reply, read):
    task = task_of("What is 6 times 9?", sets=["mul_table"])
    script(monkeypatch, task, with_facts, lambda probe, decoding: reply)
    (row,) = run(task, with_facts)
    assert row["original"] == {"reply": reply, "read": read, "right": read == 54}


def test_floors_are_those_counted_by_hand(with_facts):
    task = task_of("What is 1 * 3?", "What is 3 * 1?", "What is six times nine?", "What is 6 * 9?", sets=["facts"])
    floors = task.summarize(run(task, with_facts))["sets"]["facts"]["floors"]
    assert floors["best_constant"]["constant"] in (3, 54) and floors["best_constant"]["value"] == 0.5
    assert floors["last_number_of_question"]["value"] == 0.25, "of 1 * 3; six times nine has no digits"
    assert floors["question_again"]["value"] == 0.75
    assert floors["question_again_in_digits"]["value"] == 0
    assert floors["guess_among_candidates"]["value"] == pytest.approx(1 / 36)


def test_question_without_room_is_counted_and_wrong():
    subject = tiny_subject("mul_tokens", context=20)
    long, short = "A rectangle is 6 cm long and 9 cm wide. What is its area in square cm?", "What is 6 * 9?"
    task = task_of(long, short, sets=["facts"])
    rows = run(task, subject)
    assert [row["finish"] == "too_long" for row in rows] == [True, False]
    assert rows[0]["exact"] is rows[0]["likelihood"]["right"] is rows[0]["likelihood_any_form"]["right"] is False
    assert rows[0]["likelihood"]["rank"] is None
    summary = task.summarize(rows)
    assert summary["too_long"] == 1
    assert summary["sets"]["facts"]["exact"]["n"] == summary["sets"]["facts"]["likelihood"]["n"] == 2
    assert summary["sets"]["facts"]["likelihood_details"]["nll"]["n"] == 1


def test_task_with_no_room_for_any_question_still_ends():
    task = task_of("What is 6 * 9?", "What is 6 times 9?", sets=["facts"])
    summary = task.summarize(run(task, tiny_subject("baseline", context=8)))
    assert summary["too_long"] == 2
    assert summary["sets"]["facts"]["likelihood_details"]["rank"]["value"] is None


@pytest.mark.parametrize("inject_prompts", [True, False])
def test_question_holds_fact_tokens_only_if_prompts_are_injected(monkeypatch, with_facts, inject_prompts):
    seen = []
    task = task_of("What is 6 * 9?", inject_prompts=inject_prompts)
    monkeypatch.setattr(
        "training.evals.probes.generate",
        lambda subject, prompts, *_: seen.extend(prompts) or [Reply([], "", "end_of_text") for _ in prompts],
    )
    run(task, with_facts)
    assert any(token in with_facts.fact_ids for prompt in seen for token in prompt) == inject_prompts
    assert task.settings()["inject_prompts"] == inject_prompts


def test_results_are_shown_apart_by_template_and_for_held_out_facts(monkeypatch, with_facts):
    task = Probes("probes", ["facts", "subtraction"], held_out_facts=[(9, 6)], batch_size=400)
    task.probes = [probe for probe in task.probes if probe.set == "subtraction" or probe.cluster in ("6*9", "3*4")]
    script(monkeypatch, task, with_facts, lambda probe, decoding: f" {probe.answer if probe.tags['held_out'] else 0}")
    sets = task.summarize(run(task, with_facts))["sets"]
    assert {name: part["exact"]["value"] for name, part in sets["facts"]["by"]["held_out"].items()} == {
        "true": 1,
        "false": 0,
    }
    assert len(sets["facts"]["by"]["template"]) == 8
    assert sets["facts"]["by"]["template"]["times"]["exact"]["n"] == 4
    assert set(sets["subtraction"]["by"]) == {"carry"}, "no other tag differs within the set"


def test_interval_of_templates_counts_facts_rather_than_probes(monkeypatch, with_facts):
    task = Probes("probes", ["facts", "subtraction"], batch_size=800)
    script(monkeypatch, task, with_facts, lambda probe, decoding: f" {probe.answer if probe.answer > 30 else 0}")
    sets = task.summarize(run(task, with_facts))["sets"]
    clustered = sets["facts"]["exact"]
    plain = proportion(round(clustered["value"] * 648), 648)
    assert clustered["clusters"] == 45
    assert clustered["high"] - clustered["low"] > 2 * (plain["high"] - plain["low"])
    assert "clusters" not in sets["subtraction"]["exact"]


def test_headlines_are_in_the_summary(monkeypatch, with_facts):
    task = Probes("probes", ["facts", "two_digit_carry", "subtraction"], batch_size=900)
    script(monkeypatch, task, with_facts, lambda probe, decoding: " 1")
    summary = task.summarize(run(task, with_facts))
    for path in task.headline:
        result = summary
        for key in path.split("."):
            result = result[key]
        assert 0 <= result["value"] <= 1


def test_settings_tell_held_out_facts_apart():
    assert Probes("a", ["facts"]).settings() == Probes("b", ["facts"]).settings()
    assert Probes("a", ["facts"]).settings() != Probes("a", ["facts"], held_out_facts=[(6, 9)]).settings()


def test_all_sets_are_asked_unless_some_are_named():
    task = Probes("probes")
    assert len(task.probes) == 81 + 100 + 100 + 648 + 5 * 100


def test_sampling_is_refused():
    with pytest.raises(ValueError, match="greedily.*temperature: 0"):
        Probes("probes", decoding=Decoding(temperature=0.7, samples=4))


def test_repeated_set_is_refused():
    with pytest.raises(ValueError, match="named twice"):
        Probes("probes", ["facts", "facts"])
