import json
import os

import pytest
import torch
import torch.nn.functional as F

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.data.rows import RowSource
from training.evals import hellaswag
from training.evals.hellaswag import RULES, HellaSwag
from training.evals.subject import Subject, load_subject

CONTEXT = 64
ROWS = [
    {
        "ind": 10 * number,
        "activity_label": "Tables",
        "ctx": f"{opening} she says that 6*9 = 54 and {number} x 3 = {3 * number}. then she",
        "endings": [
            "looks up.",
            f"writes 7 × 8 = 56 on board {number}, and wipes it off again with a wet cloth.",
            "asks: “why 5*5?” – nobody knows",
            f"goes on to {number} * 4 and further, until the bell rings.",
        ],
        "label": number % 4,
    }
    for number, opening in enumerate(
        ["At school", "In a hall full of people who do not listen,", "Later", "As always, while it rains outside,"]
        * 3,
        1,
    )
]


@pytest.fixture(scope="module")
def model():
    """A random model with weights large enough for the contexts to matter to its losses."""
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=CONTEXT, initializer_range=0.2)
    return DomainGPT2ForCausalLM(config).eval()


@pytest.fixture(params=["baseline", "mul_tokens"])
def subject(model, request):
    return Subject(model, MulFactTokenizer.build(request.param))


def run(task, subject):
    rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    return sorted(rows, key=lambda row: row["index"])


@torch.no_grad()
def four_rows(subject, item):
    """Score one item as build-nanogpt does: four padded rows, all logits, a mask over blank and ending."""
    context = subject.encode(item["ctx"])
    endings = [subject.encode(" " + ending) for ending in item["endings"]]
    tokens = torch.zeros(4, len(context) + max(map(len, endings)), dtype=torch.long)
    mask = torch.zeros(tokens.shape)
    for row, ending in enumerate(endings):
        tokens[row, : len(context) + len(ending)] = torch.tensor(context + ending)
        mask[row, len(context) : len(context) + len(ending)] = 1
    logits = subject.model(tokens).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(4, -1)
    sums = (losses * mask[:, 1:]).double().sum(1)
    means = sums / mask[:, 1:].sum(1)
    return sums.tolist(), {"acc": sums.argmin().item(), "acc_norm": means.argmin().item()}


def test_losses_and_predictions_are_those_of_one_item_at_a_time(subject):
    for row, item in zip(run(HellaSwag("h", ROWS), subject), ROWS, strict=True):
        sums, predictions = four_rows(subject, item)
        assert row["nats"] == pytest.approx(sums, rel=1e-6, abs=1e-5)
        assert {rule: row["predictions"][rule] for rule in predictions} == predictions


def test_task_reads_each_arm_in_its_own_tokens_and_in_the_same_bytes(model):
    task = HellaSwag("h", ROWS)
    baseline, injected = (
        run(task, Subject(model, MulFactTokenizer.build(condition))) for condition in ("baseline", "mul_tokens")
    )
    assert [row["bytes"] for row in baseline] == [row["bytes"] for row in injected]
    assert all(first["tokens"][1] > second["tokens"][1] for first, second in zip(baseline, injected, strict=True))


def test_size_of_batches_does_not_matter(subject):
    sizes = {batch_tokens: HellaSwag("h", ROWS, batch_tokens=batch_tokens) for batch_tokens in (1, 300, 10_000)}
    assert [len(task.batches(subject)) for task in sizes.values()][::2] == [len(ROWS), 1]
    alone, some, together = (run(task, subject) for task in sizes.values())
    for rows in (some, together):
        assert [row["predictions"] for row in rows] == [row["predictions"] for row in alone]
        for row, other in zip(rows, alone, strict=True):
            assert row["nats"] == pytest.approx(other["nats"], rel=1e-6)


def test_rules_divide_by_nothing_by_tokens_and_by_bytes(model, monkeypatch):
    item = {"ctx": "a", "endings": ["b", "b b b b", "ββββ ββββ ββββ", "internationalization"], "label": 2}
    nats = [9.0, 10.0, 21.0, 15.0]
    monkeypatch.setattr(hellaswag, "score", lambda subject, requests: [nats])
    row = HellaSwag("h", [item]).run(Subject(model, MulFactTokenizer.build("baseline")), [0])[0]
    assert row["bytes"] == [1, 7, 26, 20]
    assert row["predictions"] == {
        "acc": 0,
        "acc_norm": min(range(4), key=lambda i: nats[i] / row["tokens"][i]),
        "acc_norm_bytes": 3,
    }
    assert row["predictions"]["acc_norm"] == 2
    assert row["correct"] == {"acc": False, "acc_norm": True, "acc_norm_bytes": False}


def test_context_that_does_not_fit_loses_its_left_and_is_counted(subject):
    long = ROWS[0] | {"ctx": "word " * 100 + ROWS[0]["ctx"]}
    task = HellaSwag("h", [ROWS[0], long])
    whole, cut = run(task, subject)
    room = CONTEXT - max(cut["tokens"])
    ids = subject.encode(long["ctx"])
    assert (whole["context_cut"], cut["context_cut"]) == (0, len(ids) - room)

    kept = subject.decode(ids[-room:])
    assert subject.encode(kept) == ids[-room:], "the rest of the context is to be cut between words"
    assert cut["nats"] == pytest.approx(four_rows(subject, long | {"ctx": kept})[0], rel=1e-6, abs=1e-5)
    assert task.summarize([whole, cut])["context_cut"] == 1


def test_ending_longer_than_the_model_reads_makes_the_item_wrong_and_counted(subject):
    too_long = ROWS[1] | {"endings": [*ROWS[1]["endings"][:3], "word " * CONTEXT]}
    task = HellaSwag("h", [ROWS[0], too_long, *ROWS[2:]])
    rows = run(task, subject)
    assert [row["index"] for row in rows if row["too_long"]] == [1]
    assert rows[1]["nats"] is None and not any(rows[1]["correct"].values())
    summary = task.summarize(rows)
    assert (summary["too_long"], summary["n"], summary["acc"]["n"]) == (1, len(ROWS), len(ROWS))
    assert rows[0]["nats"] == pytest.approx(four_rows(subject, ROWS[0])[0], rel=1e-6, abs=1e-5)


def test_ending_that_leaves_room_for_one_token_of_context_is_scored(subject):
    ending = "word" + " word" * (CONTEXT - 2)
    assert len(subject.encode(" " + ending)) == CONTEXT - 1
    row = run(HellaSwag("h", [ROWS[0] | {"endings": [ending, *ROWS[0]["endings"][1:]]}]), subject)[0]
    assert not row["too_long"] and row["context_cut"] == len(subject.encode(ROWS[0]["ctx"])) - 1


def test_summary_counts_each_rule_over_all_items_beside_its_floor(subject):
    task = HellaSwag("h", ROWS)
    rows = run(task, subject)
    summary = task.summarize(rows)
    for rule in RULES:
        right = sum(row["predictions"][rule] == row["label"] for row in rows)
        assert summary[rule]["value"] == right / len(rows)
        assert summary[rule]["low"] < summary[rule]["value"] < summary[rule]["high"]
        assert summary[rule]["floor"] == 0.25
    per_byte = [row["nats"][row["label"]] / row["bytes"][row["label"]] for row in rows]
    assert summary["nats_per_byte_of_right_ending"]["value"] == pytest.approx(sum(per_byte) / len(rows))


def test_row_can_be_read_alone(subject):
    row = json.loads(json.dumps(run(HellaSwag("h", ROWS), subject)[2]))
    assert {key: row[key] for key in ROWS[2]} == ROWS[2]
    assert row["index"] == 2


def test_label_may_be_a_digit_in_text_as_on_the_hub(subject):
    as_text = [row | {"label": str(row["label"])} for row in ROWS]
    assert run(HellaSwag("h", as_text), subject) == run(HellaSwag("h", ROWS), subject)


def test_empty_ending_is_scored_by_its_blank(subject):
    row = run(HellaSwag("h", [ROWS[0] | {"endings": ["", "a", "b", "c"]}]), subject)[0]
    assert (row["tokens"][0], row["bytes"][0]) == (1, 1)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"ctx": None}, "has no 'ctx'"),
        ({"ctx": ""}, "'ctx' is ''"),
        ({"endings": None}, "has no 'endings'"),
        ({"endings": ["a", "b", "c"]}, "'endings' is .*4 texts"),
        ({"endings": "abcd"}, "'endings' is 'abcd'"),
        ({"endings": ["a", "b", "c", 4]}, "'endings' is .*4 texts"),
        ({"label": None}, "has no 'label'"),
        ({"label": 4}, "'label' is 4"),
        ({"label": ""}, "'label' is ''.*validation split"),
        ({"label": True}, "'label' is True"),
        ({"ctx": "half of \ud83d"}, "half of a surrogate pair"),
    ],
)
def test_malformed_row_is_named_with_its_field(change, problem):
    with pytest.raises(ValueError, match=f"hella: row 1.*{problem}"):
        HellaSwag("hella", [ROWS[0], ROWS[1] | change])


def test_absent_field_is_named():
    with pytest.raises(ValueError, match="row 0 has no 'label'"):
        HellaSwag("h", [{key: ROWS[0][key] for key in ("ctx", "endings")}])


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["baseline", "mul_tokens"])
def test_lm_eval_gives_the_same_likelihoods_on_a_saved_checkpoint(model, condition, tmp_path):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model.save_pretrained(tmp_path)
    MulFactTokenizer.build(condition).save_pretrained(tmp_path)
    requests = [
        Instance("loglikelihood", {}, (item["ctx"], " " + ending), 0) for item in ROWS for ending in item["endings"]
    ]
    harness = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=8)
    theirs = [-log_likelihood for log_likelihood, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    ours = [nats for row in run(HellaSwag("h", ROWS), load_subject(str(tmp_path))) for nats in row["nats"]]
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.network
@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") == "1", reason="HF_HUB_OFFLINE is 1; set it to 0")
def test_stock_gpt2_has_the_published_accuracy():
    """About half an hour on two cores."""
    task = HellaSwag("hellaswag", RowSource(hub="Rowan/hellaswag", split="validation").read())
    summary = task.summarize(run(task, load_subject("openai-community/gpt2")))
    assert summary["n"] == 10_042
    assert round(summary["acc_norm"]["value"], 4) == 0.2955
