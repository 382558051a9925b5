import json
import subprocess
import sys

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.conftest import PROJECT, program_environment
from tokenization import MulFactTokenizer, inject
from training.analysis.intervals import mean, proportion
from training.evals.fact_use import fact_use, summarize_fact_use
from training.evals.generation import Decoding, Reply
from training.evals.hellaswag import RULES, HellaSwag
from training.evals.metrics import FactUse, MajorityAtK, MathAnswers, MultipleChoice, PassAtK
from training.evals.sampling import pass_at_k
from training.evals.subject import Subject
from training.evals.word_problems import WordProblems

REPLIES = ["6 * 9 = 54\n#### 54", "so it is 54", "I do not know", "#### 53", "3 + 4 = 7\n#### 7"]
GOLD = ["54", "54", "54", "54", "3+4 = 7\n#### 7"]
QUESTION = "How many are 6 rows of 9?"


@pytest.fixture
def make(tmp_path):
    """Make a metric whose temporary files are this test's own."""
    return lambda kind, *args, **options: kind(*args, cache_dir=str(tmp_path), **options)


def test_answers_are_scored_strictly_and_flexibly(make):
    results = make(MathAnswers).compute(predictions=REPLIES, references=GOLD)
    assert results == {
        "strict_accuracy": proportion(2, 5),
        "flexible_accuracy": proportion(3, 5),
        "no_answer": proportion(2, 5),
        "no_number": proportion(1, 5),
    }


def test_injected_replies_are_scored_alike(make):
    injected = [inject(text) for text in REPLIES]
    assert injected != REPLIES
    expected = make(MathAnswers).compute(predictions=REPLIES, references=GOLD)
    assert make(MathAnswers).compute(predictions=injected, references=GOLD) == expected


def test_truncated_replies_are_counted_where_the_finish_is_given(make):
    finish = ["end_of_text", "length", "length", "stop_string", "end_of_text"]
    results = make(MathAnswers, "finish").compute(predictions=REPLIES, references=GOLD, finish=finish)
    assert results["truncated"] == proportion(2, 5)


def test_items_may_be_added_one_by_one_and_in_batches(make):
    metric = make(MathAnswers)
    metric.add(prediction=REPLIES[0], reference=GOLD[0])
    metric.add_batch(predictions=REPLIES[1:3], references=GOLD[1:3])
    metric.add_batch(predictions=REPLIES[3:], references=GOLD[3:])
    assert metric.compute() == make(MathAnswers).compute(predictions=REPLIES, references=GOLD)


def test_a_metric_can_be_computed_again(make):
    metric = make(MathAnswers)
    assert metric.compute(predictions=REPLIES[:1], references=GOLD[:1])["strict_accuracy"]["value"] == 1
    assert metric.compute(predictions=REPLIES[3:4], references=GOLD[3:4])["strict_accuracy"]["value"] == 0


def test_a_reference_without_a_number_is_an_error(make):
    with pytest.raises(ValueError, match="reference 1: the answer 'none' holds no number"):
        make(MathAnswers).compute(predictions=REPLIES[:2], references=["54", "none"])


def test_an_unknown_configuration_is_an_error(make):
    with pytest.raises(ValueError, match="no configuration 'ends'"):
        make(MathAnswers, "ends")


def test_pass_at_k_is_the_mean_of_the_unbiased_estimates(make):
    replies = [["#### 54", "#### 1", "#### 2", "#### 54"], ["#### 1", "#### 2", "#### 3", "#### 7"]]
    results = make(PassAtK).compute(predictions=replies, references=["54", "7"], k=[1, 2])
    expected = {str(k): mean([pass_at_k(4, 2, k), pass_at_k(4, 1, k)]) for k in (1, 2)}
    assert results == {"pass_at": expected}
    assert expected["1"]["value"] == (2 / 4 + 1 / 4) / 2


def test_pass_at_k_needs_k_replies(make):
    with pytest.raises(ValueError, match=r"k \(3\)"):
        make(PassAtK).compute(predictions=[["#### 1", "#### 2"]], references=["1"], k=3)


def test_majority_wins_over_a_right_answer_that_is_rare(make):
    replies = [["#### 54", "#### 1", "#### 1"], ["#### 7", "#### 7", "none"]]
    results = make(MajorityAtK).compute(predictions=replies, references=["54", "7"])
    assert results == {"majority_at": {"all": mean([0.0, 1.0])}}
    assert make(MajorityAtK).compute(predictions=replies, references=["54", "7"], k=1)["majority_at"]["1"] == mean(
        [1 / 3, 2 / 3]
    )


def test_fact_use_is_that_of_the_tasks(make):
    replies = ["6 * 9 = 54\n#### 54", "<MUL_6_9_54>\n#### 54", "no facts"]
    results = make(FactUse).compute(predictions=replies, references=[QUESTION] * 3)
    assert results == summarize_fact_use([fact_use(QUESTION, reply) for reply in replies])


def test_choices_are_compared_by_sum_by_token_and_by_byte(make):
    item = {"nats": [2.0, 3.0, 4.0], "tokens": [1, 2, 2], "bytes": [4, 6, 40]}  # the least is each in turn
    for label, expected in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)]):
        results = make(MultipleChoice).compute(predictions=[item], references=[label])
        assert results == {
            rule: proportion(right, 1)
            for rule, right in zip(("acc", "acc_norm", "acc_norm_bytes"), expected, strict=True)
        }


def test_likelihoods_keep_all_their_digits(make):
    item = {"nats": [1 + 2**-50, 1.0], "tokens": [1, 1], "bytes": [1, 1]}
    assert make(MultipleChoice).compute(predictions=[item], references=[1])["acc"]["value"] == 1


@pytest.mark.parametrize(("columns", "label"), [({}, 2), ({}, -1), ({"tokens": [1]}, 0), ({"bytes": [1, 0]}, 0)])
def test_malformed_choices_are_an_error(make, columns, label):
    item = {"nats": [1.0, 2.0], "tokens": [1, 1], "bytes": [1, 1], **columns}
    with pytest.raises(ValueError, match="item 0 is .* label"):
        make(MultipleChoice).compute(predictions=[item], references=[label])


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=64, initializer_range=0.2)
    return Subject(DomainGPT2ForCausalLM(config).eval(), MulFactTokenizer.build("mul_tokens"))


def test_word_problems_have_the_results_of_the_task(make, subject, monkeypatch):
    samples = [REPLIES[:4], [REPLIES[4], "#### 7", "9 * 3 = 27\n#### 7", "none"]]
    given = iter([Reply([1] * 5, text, "end_of_text") for texts in samples for text in texts])
    monkeypatch.setattr(
        "training.evals.word_problems.generate", lambda _, prompts, *__: [next(given) for _ in prompts]
    )
    rows = [{"question": QUESTION, "answer": GOLD[0]}, {"question": "What is 3 + 4?", "answer": GOLD[4]}]
    task = WordProblems("problems", rows, decoding=Decoding(samples=4, temperature=1.0))
    results = task.summarize(task.run(subject, [0, 1]))

    replies = {"predictions": samples, "references": [GOLD[0], GOLD[4]]}
    assert make(PassAtK).compute(**replies, k=[1, 2, 4])["pass_at"] == results["pass_at"]
    assert make(MajorityAtK).compute(**replies, k=[1, 2, 4])["majority_at"] == results["majority_at"]
    single = [(text, gold) for texts, gold in zip(samples, replies["references"], strict=True) for text in texts]
    answers = make(MathAnswers).compute(predictions=[text for text, _ in single], references=[g for _, g in single])
    assert {key: value["value"] for key, value in answers.items()} == {key: results[key]["value"] for key in answers}
    use = make(FactUse).compute(
        predictions=[text for text, _ in single], references=[row["question"] for row in rows for _ in range(4)]
    )
    assert use == results["fact_use"]


def test_hellaswag_has_the_results_of_the_task(make, subject):
    rows = [
        {
            "ctx": f"Number {n} says",
            "endings": ["so.", "that 6*9 = 54.", f"{n} words, or more", "ü"],
            "label": 3 if n % 3 else 1,
        }
        for n in range(12)
    ]
    task = HellaSwag("hellaswag", rows)
    items = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    results = task.summarize(items)
    columns = [{key: item[key] for key in ("nats", "tokens", "bytes")} for item in items]
    measured = make(MultipleChoice).compute(predictions=columns, references=[item["label"] for item in items])
    assert measured == {rule: {key: results[rule][key] for key in measured[rule]} for rule in RULES}
    assert len({result["value"] for result in measured.values()}) > 1


SHARE = """
import json, sys
from training.evals.generation import Decoding, Reply
from training.evals.hellaswag import RULES, HellaSwag
from training.evals.metrics import MathAnswers, PassAtK

process, cache, replies, gold = int(sys.argv[1]), *sys.argv[2:3], *map(json.loads, sys.argv[3:])
options = {"num_process": 2, "process_id": process, "experiment_id": "test", "cache_dir": cache, "timeout": 60}
mine = slice(0, 3) if process == 0 else slice(3, None)
answers = MathAnswers(**options).compute(predictions=replies[mine], references=gold[mine])
lone = [[[reply] for reply in replies], gold] if process == 1 else [[], []]
passed = PassAtK(**options).compute(predictions=lone[0], references=lone[1])
print(json.dumps([answers, passed]))
"""


def test_two_processes_give_the_result_of_one(make, tmp_path):
    command = [str(tmp_path / "shared"), json.dumps(REPLIES), json.dumps(GOLD)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(process), *command],
            cwd=PROJECT,
            env=program_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes)
    assert first == [
        make(MathAnswers).compute(predictions=REPLIES, references=GOLD),
        make(PassAtK).compute(predictions=[[reply] for reply in REPLIES], references=GOLD),
    ]
    assert second == [None, None]
