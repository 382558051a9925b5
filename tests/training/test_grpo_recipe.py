"""The keys of a GRPO recipe: their defaults, what TRL makes of them, and what is refused."""

import importlib.util

import pytest

from training.core.grpo_recipe import (
    _REQUIRED,
    GrpoArguments,
    GrpoDataArguments,
    GrpoModelArguments,
    RewardArguments,
)
from training.core.recipe import parse_recipe
from training.evals.rewards import Rewards

SOURCE = {"path": "rows.jsonl"}
INSTEAD = {
    "shuffle_dataset": True,
    "reward_weights": [1.0],
    "steps_per_generation": 4,
    "repetition_penalty": 1.1,
    "min_p": 0.1,
    "generation_kwargs": {"no_repeat_ngram_size": 3},
    "cache_implementation": "static",
    "use_transformers_continuous_batching": True,
    "use_transformers_paged": True,
    "chat_template_kwargs": {"tools": []},
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "eval_delay": 10,
    "model_init_kwargs": {"dtype": "bfloat16"},
    "log_completions_hub_repo": "somebody/completions",
    "sync_ref_model": True,
    "cast_lm_head_to_fp32": True,
    "use_liger_kernel": True,
    "ds3_gather_for_generation": False,
    "trust_remote_code": True,
    "save_only_model": True,
    "ignore_data_skip": True,
    "train_sampling_strategy": "random",
    "label_smoothing_factor": 0.1,
    "load_best_model_at_end": True,
    "auto_find_batch_size": True,
    "average_tokens_across_devices": False,
    "remove_unused_columns": True,
    "fp16": True,
    "neftune_noise_alpha": 5.0,
    "enable_jit_checkpoint": True,
    "accelerator_config": {"split_batches": True},
}


@pytest.fixture
def arguments(tmp_path):
    """Make the arguments of a run on a CPU: arguments(beta=0.1)."""
    return lambda **keys: GrpoArguments(**{"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, **keys})


def recipe_of(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "recipe.yaml")


def test_policy_is_kept_close_to_its_start_unless_a_recipe_says_otherwise(arguments):
    assert arguments().beta > 0
    assert arguments(beta=0.0).beta == 0


def test_defaults_leave_no_noise_but_that_of_the_draws(arguments):
    args = arguments()
    assert args.disable_dropout
    assert not args.shuffle_dataset
    assert args.temperature > 0
    assert not args.gradient_checkpointing


def test_one_generation_batch_is_one_step_by_default(arguments):
    args = arguments(total_batch_items=64, per_device_train_batch_size=8)
    assert (args.generation_batch_size, args.steps_per_generation) == (64, 8)
    assert args.steps_per_generation_batch == 1


def test_larger_generation_batch_and_iterations_make_several_steps_of_it(arguments):
    args = arguments(total_batch_items=64, generation_batch_size=192, num_iterations=2, per_device_train_batch_size=16)
    assert args.steps_per_generation == 12
    assert args.steps_per_generation_batch == 6


def test_trl_evaluates_in_batches_of_one_group(arguments):
    assert arguments(num_generations_eval=6).per_device_eval_batch_size == 6


@pytest.mark.parametrize(("keys", "expected"), [({"seed": 3}, 3), ({"seed": 3, "data_seed": 0}, 0)])
def test_data_seed_is_the_seed_unless_set(arguments, keys, expected):
    assert arguments(**keys).data_seed == expected


def test_evaluation_may_be_off(arguments):
    assert arguments(eval_strategy="no", eval_steps=7, save_steps=2).eval_strategy == "no"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0; it is a whole number and at least 1"),
        ({"max_steps": -1}, "max_steps is -1; it is a whole number and at least 1"),
        ({"total_batch_items": 1}, "total_batch_items is 1; it is a whole number and at least 2"),
        ({"num_generations": 1}, "num_generations is 1; it is a whole number and at least 2"),
        ({"num_iterations": 0}, "num_iterations is 0; it is a whole number and at least 1"),
        ({"max_completion_length": 0}, "max_completion_length is 0; it is a whole number and at least 1"),
        ({"max_completion_length": None}, "max_completion_length is None; it is a whole number"),
        ({"decode_batch_size": 0}, "decode_batch_size is 0; it is a whole number and at least 1"),
        ({"logging_steps": 0.5}, "logging_steps is 0.5; it is a whole number and at least 1"),
        ({"eval_steps": 0}, "eval_steps is 0; it is a whole number and at least 1"),
        ({"save_steps": 2.5}, "save_steps is 2.5; it is a whole number and at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it is a whole number and at least 1"),
        ({"seed": -1}, "seed is -1; it is a whole number and at least 0"),
        ({"gradient_accumulation_steps": 4}, r"gradient_accumulation_steps \(4\) follows from .*; remove it"),
        (
            {"total_batch_items": 64, "generation_batch_size": 96},
            r"generation_batch_size \(96\) must be a multiple of total_batch_items \(64\).*change one of them",
        ),
        ({"temperature": 0.0}, "temperature is 0.0; completions are drawn, so it is above zero"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"beta": -0.1}, "beta is -0.1; the weight of the KL divergence is zero or above"),
        (
            {"eval_strategy": "epoch"},
            "eval_strategy is 'epoch' and save_strategy .*; runs evaluate by `steps` or `no`",
        ),
        ({"save_strategy": "no"}, "save_strategy 'no'; .* save by `steps`"),
        ({"eval_steps": 30, "save_steps": 20}, r"eval_steps \(30\) must be a multiple of save_steps \(20\).*change"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0; it is at least 1"),
        ({"num_generations_eval": 0}, "num_generations_eval is 0; it is at least 1"),
        (
            {"per_device_eval_batch_size": 16},
            "per_device_eval_batch_size is 16, which nothing here .*say decode_batch",
        ),
        ({"num_generations_eval": None}, "num_generations_eval is None; it is at least 1"),
        ({"total_batch_items": 24, "num_generations": 16}, r"\(24\) must be divisible by num_generations \(16\)"),
    ],
)
def test_argument_that_makes_no_sense_is_refused_with_its_value(arguments, keys, message):
    with pytest.raises(ValueError, match=message):
        arguments(**keys)


def test_vllm_that_is_not_installed_is_missed_at_once(arguments, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    with pytest.raises(
        ValueError, match="use_vllm is true, but vllm is not installed; install it .*or leave use_vllm"
    ):
        arguments(use_vllm=True)


@pytest.mark.parametrize("key", sorted(_REQUIRED))
def test_key_that_would_change_the_run_in_silence_is_refused(arguments, key):
    with pytest.raises(ValueError, match=rf"{key} is .*, which would change the run in silence; \S"):
        arguments(**{key: INSTEAD[key]})


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("reward_weights", "say `rewards: {exact_answer"),
        ("steps_per_generation", "it follows from generation_batch_size"),
        ("load_best_model_at_end", "linked as `best`"),
        ("shuffle_dataset", "in shuffled order already"),
        ("sync_ref_model", "go on with another reference"),
        ("min_p", "remove it"),
    ],
)
def test_refused_key_comes_with_what_to_say_instead(arguments, key, advice):
    with pytest.raises(ValueError, match=advice):
        arguments(**{key: INSTEAD[key]})


@pytest.mark.parametrize(
    "key", ["decode_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps", "log_completions"]
)
def test_what_only_says_how_a_run_is_computed_may_change_on_resuming(arguments, key):
    assert key in arguments().free_keys


@pytest.mark.parametrize("averages", [{"loss_type": "bnpo"}, {"top_entropy_quantile": 0.2}, {"entropy_coef": 0.01}])
def test_micro_batches_may_not_change_where_something_is_averaged_over_one(arguments, averages):
    free = arguments(**averages).free_keys
    assert not free & {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert "decode_batch_size" in free


@pytest.mark.parametrize("key", ["temperature", "beta", "total_batch_items", "num_generations", "rewards", "prompts"])
def test_what_a_run_computes_may_not_change_on_resuming(arguments, key):
    assert key not in arguments().free_keys


@pytest.mark.parametrize("name", [None, ""])
def test_start_without_a_name_is_refused_with_an_example(name):
    with pytest.raises(ValueError, match=r"model_name_or_path is not set; name .*--model_name_or_path \S+"):
        GrpoModelArguments(name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompts": []}, "prompts is empty; a GRPO recipe lists at least one source, such as `- path: …`"),
        ({"episode_steps": 0}, "episode_steps is 0; it is at least 1"),
        ({"pool_prompts": 0}, "pool_prompts is 0; it is at least 1"),
        ({"pool_samples": 1}, "pool_samples is 1; it is at least 2"),
        ({"max_dev_prompts": 0}, "max_dev_prompts is 0; it is at least 1"),
        ({"min_pass_at_1": 1.5}, "min_pass_at_1 is 1.5; it lies between 0 and 1"),
        ({"min_pass_at_k": -0.1}, "min_pass_at_k is -0.1; it lies between 0 and 1"),
        ({"min_pass_at_k": float("nan")}, "min_pass_at_k is nan; it lies between 0 and 1"),
    ],
)
def test_data_key_that_makes_no_sense_is_refused_with_its_value(keys, message):
    with pytest.raises(ValueError, match=message):
        GrpoDataArguments(**{"prompts": [SOURCE], **keys})


def test_gate_may_be_open_or_as_narrow_as_can_be():
    for limit in (0, 1):
        args = GrpoDataArguments(prompts=[SOURCE], min_pass_at_1=limit, min_pass_at_k=limit)
        assert (args.min_pass_at_1, args.min_pass_at_k) == (limit, limit)


def test_recipe_lists_prompts_and_rewards(tmp_path):
    recipe = recipe_of(tmp_path, "prompts: [{path: rows.jsonl}]\nrewards: {exact_answer: 2, repetition: 1e-1}\n")
    data, rewards = parse_recipe([GrpoDataArguments, RewardArguments], [recipe, "--pool_prompts", "7"])
    assert (data.prompts, data.pool_prompts) == ([SOURCE], 7)
    assert Rewards(rewards.rewards).weights == {"exact_answer": 2.0, "repetition": 0.1}


def test_rewards_may_be_json():
    assert RewardArguments('{"exact_answer": 1.0, "repetition": 0.1}').rewards == {
        "exact_answer": 1.0,
        "repetition": 0.1,
    }


def test_rewards_on_a_command_line_are_json_and_beat_those_of_the_recipe(tmp_path):
    recipe = recipe_of(tmp_path, "rewards: {exact_answer: 1.0}\n")
    (args,) = parse_recipe([RewardArguments], [recipe, "--rewards", '{"exact_program": 1, "repetition": 0.1}'])
    assert args.rewards == {"exact_program": 1, "repetition": 0.1}


def test_json_in_a_recipe_stands_for_rewards(tmp_path):
    (args,) = parse_recipe([RewardArguments], [recipe_of(tmp_path, """rewards: '{"exact_program": 1.0}'\n""")])
    assert args.rewards == {"exact_program": 1.0}


@pytest.mark.parametrize("text", ["rewards: null\n", "rewards: [exact_answer]\n", "rewards: exact_answer\n"])
def test_recipe_whose_rewards_are_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="rewards"):
        parse_recipe([RewardArguments], [recipe_of(tmp_path, text)])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("exact_answer", "rewards is 'exact_answer', which is not JSON .*; write '{\"exact_answer\": 1.0}'"),
        ("[1]", r"rewards is \[1\]; map names to weights, such as {exact_answer: 1.0}"),
        ("{}", "rewards is {}; map names to weights"),
        ({}, "rewards is {}; map names to weights"),
        (["exact_answer"], r"rewards is \['exact_answer'\]; map names to weights"),
    ],
)
def test_rewards_that_are_no_mapping_are_refused_with_an_example(rewards, message):
    with pytest.raises(ValueError, match=message):
        RewardArguments(rewards)


def test_rewards_of_one_recipe_are_not_those_of_the_next():
    first, second = RewardArguments(), RewardArguments()
    first.rewards["repetition"] = 1.0
    assert second.rewards == {"exact_answer": 1.0}


def test_rewards_that_would_pay_a_wrong_answer_too_much_are_refused(tmp_path):
    recipe = recipe_of(tmp_path, "rewards: {exact_answer: 1.0, verified_steps: 0.5}\n")
    (args,) = parse_recipe([RewardArguments], [recipe])
    with pytest.raises(
        ValueError, match=r"a wrong answer could sum up to 0.5 .*raise exact_answer, or lower verified"
    ):
        Rewards(args.rewards)
