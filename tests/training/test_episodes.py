"""Pools of prompts measured with a policy, the prompts that are chosen from them, and the gate before all."""

import functools
import json
from collections import Counter

import pytest

from tests.training.scripted_replies import Alone, Script, prompts_with_passes, source_of_prompts
from tests.training.tiny_subjects import subject_of
from tokenization import inject, render
from training.core.grpo_recipe import GrpoDataArguments
from training.evals.rewards import Rewards
from training.evals.subject import Subject
from training.rl import samples
from training.rl.episodes import REJECTION_SAMPLES, Episodes
from training.rl.gate import check_signal
from training.rl.prompts import Prompt
from training.rl.samples import free_decoding

SAMPLES = 4
REWARDS = Rewards({"exact_answer": 1.0, "length_limit": 0.1})

# The hashes of an unchanged subject take longer than all the rest.
_describe_once = functools.cache(Subject.describe)


@pytest.fixture(scope="module")
def subject():
    return subject_of("baseline")


@pytest.fixture(scope="module")
def later_subject():
    """The policy some steps later."""
    later = subject_of("baseline")
    later.model.lm_head.weight.data.add_(0.1)
    return later


@pytest.fixture
def episodes(tmp_path, monkeypatch):
    """Make episodes of prompts of which so many samples are right: episodes(0, 1, 4) returns them and the script."""

    def make(*passes, prompts=None, texts=None, sources=None, **keys):
        made, script = prompts_with_passes(passes, SAMPLES)
        script = script if texts is None else Script(texts)
        monkeypatch.setattr(samples, "generate", script)
        monkeypatch.setattr(Subject, "describe", _describe_once)
        settings = {"pool_prompts": 99, "prompts_per_episode": 8, "filter_prompts": True, "batch_size": 16, "seed": 0}
        decoding = free_decoding(8, 1.0, SAMPLES, top_p=1.0, top_k=0)
        sources = sources or [source_of_prompts()]
        return Episodes(prompts or made, sources, REWARDS, decoding, tmp_path / "pool", **settings | keys), script

    return make


def measure(episodes, number, subject):
    said = []
    return episodes.measure(number, subject, Alone(), said.append), said


def opened(episodes, subject, number=0):
    measure(episodes, number, subject)
    return episodes.open(number)


def answered(count, *texts):
    """A script's texts for prompts `0?` … that all get the same ones."""
    return {f"{number}?": texts for number in range(count)}


def rejection_samples(tmp_path):
    return [json.loads(line) for line in (tmp_path / REJECTION_SAMPLES).read_text("utf-8").split("\n") if line]


def test_prompts_with_right_and_wrong_answers_are_kept(episodes, subject):
    made, _ = episodes(0, 1, 2, 3, 4, 0, 4)
    assert {prompt.question for prompt in opened(made, subject)} == {"1?", "2?", "3?"}


def test_every_chosen_prompt_is_used_once_before_any_is_used_again(episodes, subject):
    made, _ = episodes(1, 2, 0, 3, 1, prompts_per_episode=10)
    chosen = opened(made, subject)
    assert len(chosen) == 10
    assert len(set(chosen[:4])) == len(set(chosen[4:8])) == 4
    assert len(set(chosen[8:])) == 2
    assert chosen[:4] != chosen[4:8]


def test_no_prompt_is_used_twice_where_there_are_enough(episodes, subject):
    made, _ = episodes(*[2] * 12, prompts_per_episode=8)
    assert max(Counter(opened(made, subject)).values()) == 1


def test_order_is_a_function_of_the_seed(episodes, subject, tmp_path):
    orders = []
    for seed in (0, 0, 1):
        made, _ = episodes(*[2] * 12, seed=seed)
        made.folder = tmp_path / f"{len(orders)}"
        orders.append(opened(made, subject))
    assert orders[0] == orders[1] != orders[2]


def test_without_the_filter_all_prompts_are_used_and_need_not_be_measured(episodes):
    made, script = episodes(0, 1, 4, filter_prompts=False, prompts_per_episode=3, pool_prompts=1)
    assert {prompt.question for prompt in made.open(0)} == {"0?", "1?", "2?"}
    assert {prompt.question for prompt in made.open(5)} == {"0?", "1?", "2?"}
    assert script.batches == []


def test_pool_has_no_more_prompts_than_asked_for(episodes, subject):
    made, script = episodes(*[2] * 9, pool_prompts=5)
    results, _ = measure(made, 0, subject)
    assert results["n"] == len(made.pool(0)) == len(script.seeds) == 5
    assert set(made.open(0)) == set(made.pool(0))


def test_first_pool_without_an_informative_prompt_is_an_error_with_numbers(episodes, subject):
    made, _ = episodes(0, 0, 4, 0)
    measure(made, 0, subject)
    message = (
        r"no prompt of the first pool .* its 4 samples: of 4 prompts 3 are never answered right and 1 always; .*"
        "another difficulty, raise pool_samples, or set filter_prompts: false"
    )
    with pytest.raises(ValueError, match=message):
        made.open(0)


def test_later_pool_without_an_informative_prompt_is_used_whole(episodes, subject):
    made, _ = episodes(0, 4, 4, prompts_per_episode=3)
    assert set(opened(made, subject, 1)) == set(made.pool(1))
    assert len(made.pool(1)) == 3


def test_later_pool_is_filtered_like_the_first(episodes, subject):
    made, _ = episodes(0, 1, 4, 2)
    assert {prompt.question for prompt in opened(made, subject, 1)} == {"1?", "3?"}


def test_results_are_those_of_the_replies_and_told(episodes, subject):
    made, _ = episodes(0, 1, 3, 4)
    results, said = measure(made, 0, subject)
    assert results["pass_at_1"]["value"] == pytest.approx(8 / 16)
    assert results["pass_at_4"]["value"] == pytest.approx(3 / 4)
    expected = "episode 0: pass@1 0.500, pass@4 0.750 on 4 prompts, 50.0% of them with right and wrong answers"
    assert said == [f"{expected}; 8 groups to train on"]


def test_measured_pool_is_not_sampled_again(episodes, subject):
    first = measure(episodes(0, 1, 3)[0], 0, subject)
    made, script = episodes(0, 1, 3)
    assert measure(made, 0, subject) == first
    assert script.batches == []


def test_interrupted_pool_goes_on_where_it_was(episodes, subject, tmp_path):
    made, script = episodes(1, 2, 3, batch_size=SAMPLES)
    whole = opened(made, subject)
    made, script = episodes(1, 2, 3, batch_size=SAMPLES)
    made.folder = tmp_path / "interrupted"

    def die_at_third(*arguments):
        if len(script.batches) == 2:
            raise KeyboardInterrupt
        return script(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "generate", die_at_third)
        with pytest.raises(KeyboardInterrupt):
            measure(made, 0, subject)
    assert opened(made, subject) == whole
    assert script.batches == [SAMPLES] * 3


def test_first_pool_of_another_model_is_refused(episodes, subject, later_subject):
    measure(episodes(1, 2)[0], 0, subject)
    with pytest.raises(ValueError, match="holds results of another model or tokenizer: weights_sha256 was"):
        measure(episodes(1, 2)[0], 0, later_subject)


def test_later_pool_of_another_policy_is_sampled_again(episodes, subject, later_subject):
    measure(episodes(1, 2)[0], 1, subject)
    made, script = episodes(3, 2)
    results, _ = measure(made, 1, later_subject)
    assert results["pass_at_1"]["value"] == pytest.approx(5 / 8)
    assert sum(script.batches) == 2 * SAMPLES


def test_later_pool_of_the_same_policy_is_not_sampled_again(episodes, subject):
    measure(episodes(1, 2)[0], 1, subject)
    made, script = episodes(1, 2)
    measure(made, 1, subject)
    assert script.batches == []


@pytest.mark.parametrize("number", [0, 1])
def test_pool_of_other_prompts_is_refused(episodes, subject, number):
    measure(episodes(1, 2)[0], number, subject)
    with pytest.raises(ValueError, match="holds results of other data"):
        measure(episodes(1, 2, 3)[0], number, subject)


def test_samples_that_are_gone_are_missed_by_name(episodes, subject):
    made, _ = episodes(1, 2)
    with pytest.raises(FileNotFoundError, match=r"episode-1/pool\.jsonl' is gone, .*put it back, or begin again"):
        made.open(1)


def test_every_episode_has_its_own_pool_and_random_numbers(episodes, subject):
    made, script = episodes(*[2] * 12, pool_prompts=8, prompts_per_episode=8)
    assert opened(made, subject, 0) != opened(made, subject, 1)
    seeds = [seed for each in script.seeds.values() for seed in each]
    assert len(set(seeds)) == len(seeds) == 2 * 8 * SAMPLES


def test_pools_follow_the_curriculum(episodes):
    prompts = [Prompt(f"{number}?", number, "", number % 2) for number in range(8)]
    sources = [source_of_prompts(last_episode=0), source_of_prompts(first_episode=1, last_episode=1)]
    made, _ = episodes(prompts=prompts, sources=sources)
    assert [{prompt.source for prompt in made.pool(number)} for number in (0, 1)] == [{0}, {1}]
    with pytest.raises(ValueError, match="no source of prompts is in use in episode 2"):
        made.pool(2)


def test_right_completions_of_the_first_pool_are_rows_for_fine_tuning(episodes, subject, tmp_path):
    texts = {"0?": ["#### 0", "#### 5", " #### 0\n", "it is #### 0"], "1?": ["#### 5", "#### 1…", "1", ""]}
    made, _ = episodes(0, 0, texts=texts)
    measure(made, 0, subject)
    assert rejection_samples(tmp_path) == [
        {"messages": [{"role": "user", "content": "0?"}, {"role": "assistant", "content": text}]}
        for text in ("#### 0", "it is #### 0")
    ]


def test_facts_of_right_completions_are_written_as_text(episodes, subject, tmp_path):
    plain = "6*9=54, and 54-54=0\n#### 0"
    assert inject(plain) != plain
    made, _ = episodes(0, texts={"0?": [inject(plain), plain, "#### 7", "#### 8"]})
    measure(made, 0, subject)
    (row,) = rejection_samples(tmp_path)
    assert row["messages"][1]["content"] == render(inject(plain))
    assert "<MUL_" not in row["messages"][1]["content"]


def test_later_pools_add_no_rows_for_fine_tuning(episodes, subject, tmp_path):
    measure(episodes(1, 2)[0], 0, subject)
    before = (tmp_path / REJECTION_SAMPLES).read_bytes()
    measure(episodes(texts=answered(2, "it is #### 0"), prompts=episodes(1, 2)[0].train)[0], 1, subject)
    assert (tmp_path / REJECTION_SAMPLES).read_bytes() == before


def test_rows_for_fine_tuning_are_written_again_if_they_are_gone(episodes, subject, tmp_path):
    measure(episodes(1, 2)[0], 0, subject)
    rows = rejection_samples(tmp_path)
    (tmp_path / REJECTION_SAMPLES).unlink()
    measure(episodes(1, 2)[0], 0, subject)
    assert rejection_samples(tmp_path) == rows
    assert len(rows) == 2


def gate(episodes, subject, **limits):
    """Return what the gate says; 5 of 16 completions are right, and 3 of 4 prompts have a right one."""
    args = GrpoDataArguments(prompts=[{"path": "rows.jsonl"}], **limits)
    said = []
    check_signal(episodes(0, 1, 2, 2)[0], subject, Alone(), args, said.append)
    return said


def test_start_above_the_limits_passes(episodes, subject):
    assert len(gate(episodes, subject, min_pass_at_1=0.3, min_pass_at_k=0.7)) == 1


def test_start_at_the_limits_passes(episodes, subject):
    assert len(gate(episodes, subject, min_pass_at_1=0.3125, min_pass_at_k=0.75)) == 1


@pytest.mark.parametrize(("pass_at_1", "pass_at_k"), [(0.32, 0.75), (0.3125, 0.76), (0.4, 0.8)])
def test_start_below_either_limit_is_refused_with_the_numbers(episodes, subject, pass_at_1, pass_at_k):
    message = (
        r"too little signal for .*: pass@1 0\.312, pass@4 0\.750 on 4 prompts, .*; at least pass@1 "
        rf"{pass_at_1} and pass@4 {pass_at_k} are wanted \(min_pass_at_1, min_pass_at_k\); fine-tune longer, .*"
        "ignore_gate: true"
    )
    with pytest.raises(ValueError, match=message):
        gate(episodes, subject, min_pass_at_1=pass_at_1, min_pass_at_k=pass_at_k)


def test_ignored_gate_says_what_is_wrong_and_lets_the_run_go_on(episodes, subject):
    told, warned = gate(episodes, subject, min_pass_at_1=0.4, min_pass_at_k=0.8, ignore_gate=True)
    assert told.startswith("episode 0: pass@1 0.312")
    assert warned.startswith("ignore_gate: the start has too little signal")
    assert "pass@4 0.750" in warned
    assert "0.8 are wanted" in warned


def test_gate_that_is_passed_says_nothing_of_being_ignored(episodes, subject):
    assert not any("ignore_gate" in line for line in gate(episodes, subject, ignore_gate=True))


def test_refused_start_is_not_sampled_again_by_the_next_try(episodes, subject):
    with pytest.raises(ValueError, match="too little signal"):
        gate(episodes, subject, min_pass_at_1=0.9)
    made, script = episodes(0, 1, 2, 2)
    measure(made, 0, subject)
    assert script.batches == []
