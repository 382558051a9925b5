import pytest
import yaml

from modeling import DomainGPT2Config
from training.data.synthetic_probes import PRODUCTS, probe_set
from training.experiments.costs import plan_in_words
from training.experiments.planned_work import planned_work
from training.experiments.recipe import ExperimentArguments

MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 128}
FLOPS = DomainGPT2Config(**MODEL).flops_per_token  # a function of the sequence length
RECIPES = {
    # 100 x 512 = 51,200 tokens
    "pretrain": {**MODEL, "corpus_dir": "corpus", "max_steps": 100, "total_batch_tokens": 512},
    # 10 x 4 items of at most 64 tokens = 2,560
    "steps": {"datasets": [{"path": "rows.jsonl"}], "max_steps": 10, "total_batch_items": 4, "max_length": 64},
    "epochs": {"datasets": [{"path": "rows.jsonl"}], "num_train_epochs": 2},
    "grpo": {
        "prompts": [{"path": "rows.jsonl", "held_out": 3}],
        "max_steps": 6,
        "total_batch_items": 8,
        "num_generations": 4,
        "max_completion_length": 32,
        "episode_steps": 4,
        "pool_prompts": 5,
        "pool_samples": 2,
        "max_dev_prompts": 3,
        "num_generations_eval": 2,
        "eval_steps": 3,
        "save_steps": 3,
        "per_device_train_batch_size": 4,
    },
    "eval": {"name": "sets", "tasks": [{"task": "probes", "sets": ["mul_table"]}]},
}


@pytest.fixture
def experiment(tmp_path):
    """Build an experiment of two arms and three seeds from named recipes, which `changed` overrides key by key."""

    def build(*stages, changed=None, evaluation=None, **keys):
        for name, recipe in RECIPES.items():
            recipe = {**recipe, **(changed or {}).get(name, {})}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        stages = [{"name": "pretrain", "program": "pretrain", "recipe": "pretrain"}, *stages]
        defaults = {
            "arms": {"baseline": {}, "mul_tokens": {}},
            "seeds": [0, 1, 2],
            "corpus": "corpus.yaml",
            "stages": [{**stage, "recipe": str(tmp_path / f"{stage['recipe']}.yaml")} for stage in stages],
            "evals": [{"recipe": str(tmp_path / "eval.yaml"), "stages": ["pretrain"], **(evaluation or {})}],
            "comparisons": [["baseline", "mul_tokens"]],
            "primary": {"name": "p", "stage": "pretrain", "eval": "sets", "task": "probes", "value": "exact"},
        }
        return ExperimentArguments(**{**defaults, **keys})

    return build


def work_of(args):
    return {(work.stage, work.part): work for work in planned_work(args)}


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def fine_tuning(recipe, **keys):
    return {"name": "sft", "program": "sft", "recipe": recipe, **keys}


GRPO = {"name": "grpo", "program": "grpo", "recipe": "grpo"}


def test_pretraining_is_steps_times_tokens_at_the_models_context(experiment):
    work = work_of(experiment())["pretrain", "training"]
    # 6 x (12 x 2 layers x 16^2 + 16 x 50349 words) + 6 x 2 layers x 128 tokens x 16
    assert (work.tokens, work.flops) == (51_200, 51_200 * (6 * (6_144 + 805_584) + 24_576))
    assert not work.bound


def test_fine_tuning_by_steps_is_bounded_by_full_items(experiment):
    work = work_of(experiment(fine_tuning("steps")))["sft", "training"]
    assert (work.tokens, work.flops) == (2_560, 2_560 * FLOPS(64))
    assert work.bound


def test_items_are_no_longer_than_the_context(experiment):
    args = experiment(fine_tuning("steps"), changed={"steps": {"max_length": 1024}})
    assert work_of(args)["sft", "training"].tokens == 10 * 4 * 128


def test_planned_tokens_stand_in_for_steps_that_nobody_knows(experiment):
    work = work_of(experiment(fine_tuning("epochs", planned_tokens=7_000)))["sft", "training, as planned"]
    assert (work.tokens, work.flops, work.bound) == (7_000, 7_000 * FLOPS(128), "")


def test_planned_tokens_are_a_bound_where_a_run_may_end_early(experiment):
    stage = fine_tuning("epochs", planned_tokens=7_000, set={"early_stopping_patience": 2})
    assert work_of(experiment(stage))["sft", "training, as planned"].bound


def test_stage_of_unknown_length_is_named_and_is_not_in_the_total(experiment):
    text = plan_in_words(experiment(fine_tuning("epochs")))
    assert "not known from the recipe: set planned_tokens" in line_of(text, "sft")
    assert line_of(text, "total").startswith("total of what is known")
    assert "Not in the total: training of sft" in text


def test_keys_that_a_stage_sets_count(experiment):
    args = experiment(fine_tuning("epochs", set={"max_steps": 3, "total_batch_items": 2}))
    assert work_of(args)["sft", "training"].tokens == 3 * 2 * 128


def test_grpo_counts_what_is_drawn_trained_referred_to_and_measured(experiment):
    work = work_of(experiment(GRPO))
    length, forward = 64 + 32, FLOPS(96) // 3
    expected = {
        "drawing": (6 * 8, 1),
        "training": (6 * 8, 3),
        "reference": (6 * 8, 1),
        "pools": (2 * 5 * 2, 1),  # of two episodes
        "held-out prompts": (3 * 3 * (1 + 2), 1),  # at steps 0, 3 and 6
    }
    assert {part for stage, part in work if stage == "grpo"} == set(expected)
    for part, (sequences, passes) in expected.items():
        counted = work["grpo", part]
        assert (counted.tokens, counted.flops) == (sequences * length, sequences * length * passes * forward), part
        assert counted.bound


def test_grpo_without_kl_has_no_reference(experiment):
    assert ("grpo", "reference") not in work_of(experiment(GRPO, changed={"grpo": {"beta": 0.0}}))


def test_completions_of_an_earlier_policy_are_scored_once_more_and_drawn_less_often(experiment):
    work = work_of(experiment(GRPO, changed={"grpo": {"num_iterations": 2}}))
    assert work["grpo", "policy that drew"].tokens == work["grpo", "drawing"].tokens == 3 * 8 * 96
    assert work["grpo", "training"].tokens == 6 * 8 * 96


def test_unfiltered_prompts_need_the_first_pool_alone(experiment):
    work = work_of(experiment(GRPO, changed={"grpo": {"filter_prompts": False}}))
    assert work["grpo", "pools"].tokens == 1 * 5 * 2 * 96


def test_nothing_is_measured_where_nothing_is_held_out(experiment):
    args = experiment(GRPO, changed={"grpo": {"prompts": [{"path": "rows.jsonl"}]}})
    assert ("grpo", "held-out prompts") not in work_of(args)


def test_evaluation_counts_its_probes_with_one_forward_pass(experiment):
    work = work_of(experiment())["pretrain", "eval sets"]
    per_probe = 2 * 64 + 16 + 32 + 12 * len(PRODUCTS)
    assert work.tokens == len(probe_set("mul_table")) * per_probe == 81 * 608
    assert work.flops == work.tokens * FLOPS(128) // 3


def test_every_checkpoint_that_is_kept_is_evaluated(experiment):
    changed = {"pretrain": {"save_steps": 10, "save_total_limit": 4}}
    once = work_of(experiment(changed=changed))["pretrain", "eval sets"].tokens
    kept = work_of(experiment(changed=changed, evaluation={"every_checkpoint": True}))["pretrain", "eval sets"].tokens
    assert kept == 4 * once


def test_replies_to_a_known_number_of_problems_are_counted(experiment):
    tasks = [
        {"task": "word_problems", "path": "rows.jsonl", "limit": 20, "samples": 3, "temperature": 1.0},
        {"task": "probes", "sets": ["mul_table"]},
    ]
    args = experiment(changed={"eval": {"tasks": tasks[:1], "max_new_tokens": 40}}, primary=primary("word_problems"))
    assert work_of(args)["pretrain", "eval sets"].tokens == 20 * 3 * (64 + 40)


def test_tasks_of_unknown_size_are_named(experiment):
    tasks = [{"task": "probes", "sets": ["mul_table"]}, {"task": "word_problems", "path": "rows.jsonl"}]
    text = plan_in_words(experiment(changed={"eval": {"tasks": tasks}}))
    assert any("eval sets" in line and "not counted: word_problems" in line for line in text.splitlines())
    assert "Not in the total, of eval sets: word_problems" in text


def test_table_gives_time_hours_and_price_by_hand(experiment):
    args = experiment(
        changed={"pretrain": {"max_steps": 1_000_000, "total_batch_tokens": 524_288}},
        plan_device="H100",
        plan_devices=4,
        plan_utilisation=0.5,
        plan_price=3.0,
    )
    tokens = 1_000_000 * 524_288
    seconds = tokens * FLOPS(128) / (4 * 989e12 * 0.5)  # 1,298
    hours = 6 * 4 * seconds / 3600  # of two arms and three seeds on four devices
    cells = line_of(plan_in_words(args), "pretrain ").split("  ")
    cells = [cell.strip() for cell in cells if cell.strip()]
    assert cells[:2] == ["pretrain", "training"]
    assert cells[2:] == ["524 B", "2.6e18", f"{seconds / 60:.1f} min", f"{hours:.2f}", f"${3 * hours:.0f}"]


def test_tokens_per_second_and_the_share_of_the_peak_for_an_hour_are_said(experiment):
    args = experiment(changed={"pretrain": {"max_steps": 10_000_000, "total_batch_tokens": 524_288}})
    text = " ".join(plan_in_words(args).split())
    per_second = 8 * 312e12 * 0.4 / FLOPS(128)
    share = 10_000_000 * 524_288 * FLOPS(128) / 3600 / (8 * 312e12)
    assert f"pretrain: {per_second / 1e6:.0f} M tokens per second" in text
    assert share > 1 and f"would need {share:.0%} of the peak, more than there is" in text


def test_a_part_of_the_arms_and_seeds_costs_a_part(experiment):
    text = plan_in_words(experiment(only_arms=["baseline"], only_seeds=[2]))
    assert "1 arm x 1 seed = 1 run of each stage" in text


def test_numbers_end_in_the_same_columns_in_every_row(experiment):
    text = plan_in_words(experiment(fine_tuning("epochs"), GRPO))
    lines = text.splitlines()
    table = lines[lines.index("") + 1 : lines.index("", 2)]
    with_numbers = [line for line in table if "$" in line]
    assert len(with_numbers) == 8 and len({len(line) for line in with_numbers} | {len(table[0])}) == 1
    ends = [
        [place for place in range(len(line) - 1) if line[place] != " " == line[place + 1]] for line in with_numbers
    ]
    assert len({tuple(places[-3:]) for places in ends}) == 1


def test_table_and_notes_keep_within_the_width(experiment):
    tasks = [
        {"task": "probes"},
        *({"task": "word_problems", "path": "rows.jsonl", "name": f"problems_{n}"} for n in range(20)),
    ]
    stages = [fine_tuning("epochs"), GRPO]
    text = plan_in_words(experiment(*stages, changed={"eval": {"tasks": tasks}}))
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"plan_device": "abacus"}, "plan_device is 'abacus'.*choose H100 PCIe.*A100.*RTX 3090"),
        ({"plan_utilisation": 40.0}, "plan_utilisation is 40.0; it is a share"),
        ({"plan_price": -1.0}, "plan_price is -1.0"),
    ],
)
def test_machine_that_does_not_exist_is_refused(experiment, keys, message):
    with pytest.raises(ValueError, match=message):
        plan_in_words(experiment(**keys))


def primary(task):
    return {"name": "p", "stage": "pretrain", "eval": "sets", "task": task, "value": "exact"}
