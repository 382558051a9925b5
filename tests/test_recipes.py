"""Every recipe parses, every command in the documents names what exists, and the arms' recipes differ in the
condition alone."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from modeling import DomainGPT2ForCausalLM
from tests.conftest import PROJECT
from training import chat, push
from training.core.batch_sizes import accumulation_steps, share_of_step
from training.core.grpo_recipe import GrpoArguments, GrpoDataArguments, GrpoModelArguments, RewardArguments
from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
from training.core.recipe import parse_recipe
from training.core.sft_recipe import SftArguments, SftDataArguments, SftModelArguments
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.sft_sources import SftSource
from training.data.sources import Source
from training.data.tinygsm.recipe import ConversionArguments
from training.evals.eval_recipe import EvalArguments
from training.evals.rewards import Rewards, RewardSettings
from training.experiments.invariants import check_leakage
from training.experiments.recipe import ExperimentArguments
from training.experiments.steps import all_steps
from training.pretrain import model_config
from training.rl.prompts import open_sources

RECIPES = sorted((PROJECT / "recipes").rglob("*.yaml"))
CORPORA = [path for path in RECIPES if "corpus" in path.stem]
PRETRAINING = [path for path in RECIPES if path.stem in ("baseline", "mul_tokens")]
CONVERSIONS = [path for path in RECIPES if path.stem.startswith("tinygsm")]
FINE_TUNING = [path for path in RECIPES if path.stem.startswith("sft") and not path.stem.endswith("eval")]
GRPO = [path for path in RECIPES if path.stem.startswith(("grpo", "beta_")) and not path.stem.endswith("eval")]
EXPERIMENTS = [path for path in RECIPES if path.stem == "experiment"]
PRETRAINING_OF_AN_EXPERIMENT = [path for path in RECIPES if path.stem == "pretrain"]
EVALUATIONS = [path for path in RECIPES if path.stem.endswith("eval")]
DOCUMENTS = [*PROJECT.glob("*.md"), *sorted((PROJECT / "docs").rglob("*.md")), PROJECT / "recipes" / "README.md"]
GROUPS = {
    "prepare_data.py": [CorpusArguments, PreparationArguments],
    "convert_tinygsm.py": [ConversionArguments],
    "pretrain.py": [ModelArguments, DataArguments, PretrainArguments],
    "sft.py": [SftModelArguments, SftDataArguments, SftArguments],
    "grpo.py": [GrpoModelArguments, GrpoDataArguments, RewardArguments, GrpoArguments],
    "eval.py": [EvalArguments],
    "experiment.py": [ExperimentArguments],
}
OTHER_PARSERS = {"chat.py": chat.parse, "push.py": push.parse}


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_every_recipe_is_covered():
    pretraining = [*PRETRAINING, *PRETRAINING_OF_AN_EXPERIMENT]
    others = [*CORPORA, *FINE_TUNING, *GRPO, *EVALUATIONS, *CONVERSIONS, *EXPERIMENTS]
    assert sorted([*pretraining, *others]) == RECIPES


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_experiment_recipe_parses_and_the_programs_take_what_it_gives_them(path, monkeypatch):
    monkeypatch.chdir(PROJECT)  # recipes name recipes from there
    (args,) = parse_recipe(GROUPS["experiment.py"], [str(path)])
    assert check_leakage(args)
    seen_steps = set()
    for step in all_steps(args):
        start = {"sft": ["--model_name_or_path", "RUN"], "grpo": ["--model_name_or_path", "RUN"]}
        options = [*step.arguments, *start.get(step.program, [])]
        if (step.program, step.recipe) in seen_steps:
            continue
        seen_steps.add((step.program, step.recipe))
        parse_recipe(GROUPS[f"{step.program}.py"], [step.recipe, *options])


@pytest.mark.parametrize("path", PRETRAINING_OF_AN_EXPERIMENT, ids=name)
def test_pretraining_recipe_of_an_experiment_parses(path):
    model_args, _, args = parse_recipe(GROUPS["pretrain.py"], [str(path)])
    assert model_args.condition == "baseline"
    share_of_step(args.total_batch_tokens, model_args.n_positions, args.per_device_train_batch_size, 1)


@pytest.mark.parametrize("path", CORPORA, ids=name)
def test_corpus_recipe_parses(path):
    args, _ = parse_recipe(GROUPS["prepare_data.py"], [str(path)])
    assert args.open_sources()


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_pretraining_recipe_parses_and_its_batch_divides(path):
    model_args, data_args, args = parse_recipe(GROUPS["pretrain.py"], [str(path)])
    assert model_args.condition == path.stem
    for processes in (1, 2, 4, 8):
        if name(path).startswith("recipes/gpt2"):
            share_of_step(args.total_batch_tokens, model_args.n_positions, args.per_device_train_batch_size, processes)
    if data_args.corpus_recipe:
        assert (PROJECT / data_args.corpus_recipe).is_file()


@pytest.mark.parametrize("path", CONVERSIONS, ids=name)
def test_conversion_recipe_parses_and_leaves_the_files_to_the_user(path):
    (args,) = parse_recipe(GROUPS["convert_tinygsm.py"], [str(path)])
    assert args.open_evaluation_sets()
    assert args.source_root == "."


@pytest.mark.parametrize("path", FINE_TUNING, ids=name)
def test_fine_tuning_recipe_parses_and_names_no_arm_and_no_start(path):
    written = yaml.safe_load(path.read_text())
    assert not {"condition", "model_name_or_path"} & set(written)
    _, data_args, args = parse_recipe(GROUPS["sft.py"], [str(path), "--model_name_or_path", "CHECKPOINT"])
    for entry in data_args.datasets:
        SftSource.from_recipe(entry)
    for entry in data_args.decontaminate:
        Source.from_recipe(entry, ".")
    assert "{condition}" in args.output_dir
    if name(path).startswith("recipes/gpt2"):
        for processes in (1, 2, 4, 8):
            assert accumulation_steps(args.total_batch_items, args.per_device_train_batch_size, processes)
        assert args.bf16
        assert any(entry["name"] == "GSM8K test" for entry in data_args.decontaminate)


@pytest.mark.parametrize("path", GRPO, ids=name)
def test_grpo_recipe_parses_and_names_no_arm_and_no_start(path):
    written = yaml.safe_load(path.read_text())
    assert not {"condition", "model_name_or_path"} & set(written)
    _, data_args, reward_args, args = parse_recipe(
        GROUPS["grpo.py"], [str(path), "--model_name_or_path", "CHECKPOINT"]
    )
    rewards = Rewards(
        reward_args.rewards,
        RewardSettings(reward_args.soft_limit_bytes, reward_args.hard_limit_bytes),
        reward_args.symmetric,
    )
    assert reward_args.symmetric == (path.parent.name != "original")
    sources = open_sources(data_args)
    for episode in range(-(-args.max_steps // data_args.episode_steps)):
        assert any(source.is_used_in(episode) for source in sources)
    assert data_args.episode_steps % args.steps_per_generation_batch == 0
    assert "{condition}" in args.output_dir
    assert rewards.weights and any(source.rows.held_out for source in sources)
    if name(path).startswith("recipes/gpt2"):
        for processes in (1, 2, 4, 8):
            assert accumulation_steps(args.total_batch_items, args.per_device_train_batch_size, processes)
        assert args.bf16
        assert any(entry["name"] == "GSM8K test" for entry in data_args.decontaminate)


def test_sweep_over_beta_changes_nothing_else():
    default = yaml.safe_load((PROJECT / "recipes" / "gpt2_124m" / "grpo.yaml").read_text())
    sweep = [yaml.safe_load(path.read_text()) for path in GRPO if path.stem.startswith("beta_")]
    assert sorted(float(recipe["beta"]) for recipe in sweep) == [0, 1e-3, 0.1, 0.5]
    for recipe in sweep:
        assert {key for key in recipe if recipe[key] != default[key]} <= {"beta", "output_dir"}
    assert len({recipe["output_dir"] for recipe in sweep}) == 4


@pytest.mark.parametrize("path", EVALUATIONS, ids=name)
def test_evaluation_recipe_parses_and_names_no_arm(path):
    (args,) = parse_recipe(GROUPS["eval.py"], [str(path)])
    assert args.entries()
    assert args.model is None, "one recipe is for both arms"


@pytest.mark.parametrize("path", [path for path in PRETRAINING if path.stem == "baseline"], ids=name)
def test_arms_recipes_differ_in_the_condition_alone(path):
    baseline, mul_tokens = (
        yaml.safe_load((path.parent / f"{arm}.yaml").read_text()) for arm in ("baseline", "mul_tokens")
    )
    assert baseline | {"condition": "mul_tokens"} == mul_tokens


@pytest.mark.parametrize(("size", "parameters"), [("gpt2_124m", 124_510_464), ("gpt2_355m", 354_917_376)])
def test_the_experiments_models_have_the_stated_sizes(size, parameters):
    import torch

    model_args, _, args = parse_recipe(GROUPS["pretrain.py"], [str(PROJECT / "recipes" / size / "baseline.yaml")])
    with torch.device("meta"):
        model = DomainGPT2ForCausalLM(model_config(model_args))
    model.tie_weights()
    assert model.num_parameters() == parameters
    assert args.max_steps * args.total_batch_tokens == 9_999_745_024
    assert args.warmup_steps == 715
    assert args.weight_decay == 0.1


def blocks(path: Path, *languages: str) -> list[str]:
    """The document's fenced code blocks of some languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in fenced if language in languages]


def commands(path: Path) -> list[list[str]]:
    """The program calls in a document's shell blocks, indented lines and tables, continuation lines joined."""
    text = path.read_text(encoding="utf-8")
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    inline = re.findall(r"`((?:python|accelerate launch) [^`]+)`", text)
    found = []
    for line in "\n".join([*blocks(path, "bash"), *indented, *inline]).replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if re.search(r"(training|benchmarks)/\w+\.py", command):
                found.append(shlex.split(command, comments=True))
    return found


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.exists()], ids=name)
def test_documented_commands_name_what_exists_and_parse(path):
    for words in commands(path):
        index = next(i for i, word in enumerate(words) if word.endswith(".py"))
        assert (PROJECT / words[index]).is_file(), words
        if "--config_file" in words:
            assert (PROJECT / words[words.index("--config_file") + 1]).is_file(), words
        program = Path(words[index]).name
        if words[index].startswith("training/") and program in GROUPS:
            arguments = words[index + 1 :]
            if arguments and "…" not in arguments:
                recipe = [] if arguments[0].startswith("--") else [str(PROJECT / arguments.pop(0))]
                parse_recipe(GROUPS[program], [*recipe, *arguments])
        if words[index].startswith("training/") and program in OTHER_PARSERS:
            OTHER_PARSERS[program](words[index + 1 :])


def test_readme_examples_give_what_they_show():
    import tokenization

    names = vars(tokenization) | {"tokenizer": tokenization.MulFactTokenizer.build(condition="mul_tokens")}
    shown = re.findall(
        r"^((?:inject|render|tokenizer)[(.].*?)  # (.+)$", "".join(blocks(PROJECT / "README.md", "python")), re.M
    )
    assert len(shown) >= 4
    for expression, result in shown:
        assert eval(expression, names) == ast.literal_eval(result), expression


def test_readme_shows_every_program():
    shown = {word for words in commands(PROJECT / "README.md") for word in words if word.endswith(".py")}
    assert {f"training/{path.name}" for path in (PROJECT / "training").glob("*.py")} - {
        "training/__init__.py"
    } <= shown


@pytest.mark.parametrize("path", sorted((PROJECT / "accelerate_configs").glob("*.yaml")), ids=name)
def test_accelerate_configs_leave_the_science_to_the_recipe(path):
    config = yaml.safe_load(path.read_text())
    assert not {"mixed_precision", "gradient_accumulation_steps", "gradient_clipping"} & set(config)
    assert not {"gradient_accumulation_steps", "gradient_clipping"} & set(config.get("deepspeed_config", {}))
