"""The keys of an experiment's recipe: arms, seeds, stages, evaluations, and the endpoints declared beforehand."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from tokenization.conditions import resolve_condition
from training.core.recipe import check_type, read_recipe

SEED_OF_RUN = "seed"  # as a condition_seed: every seed of the experiment draws anew
_ARM_KEYS = {"condition": str, "injection_mode": str, "operators": str, "condition_seed": int | str, "dose": float}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
# What may differ when an experiment is taken up again: where and how it runs, and in what it departed from the plan,
# which shows after the start; never what it is.
FREE_KEYS = frozenset(
    "deviations output_dir data_root accelerate_config devices_per_step max_parallel only_arms only_seeds only_corpus "
    "only_report report plan plan_device plan_devices plan_utilisation plan_price slurm slurm_partition "
    "slurm_options".split()
)


@dataclass(frozen=True)
class Arm:
    """A condition of the tokenizer, and a dose of the corpus if it is not the recipe's."""

    name: str
    condition: str
    injection_mode: str = "weak"
    operators: str = "*×x"
    condition_seed: int | str = 0
    dose: float | None = None

    def seed_of_condition(self, seed: int) -> int:
        return seed if self.condition_seed == SEED_OF_RUN else int(self.condition_seed)


@dataclass(frozen=True)
class Stage:
    """A training program with its recipe.

    program: pretrain, sft or grpo. start: the stage whose last checkpoint it begins from, the one before unless named.
    set: keys of the recipe that are changed, for all arms. planned_tokens: of one run, for `--plan`, where they do not
    follow from the recipe.
    """

    name: str
    program: str
    recipe: str
    start: str | None = None
    set: dict = field(default_factory=dict)
    planned_tokens: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """A recipe of `training/eval.py` and the stages whose last checkpoints it measures; every_checkpoint: all that are
    kept."""

    recipe: str
    stages: list
    set: dict = field(default_factory=dict)
    every_checkpoint: bool = False

    @property
    def name(self) -> str:
        """The name under which its results are written."""
        return str(self.set.get("name", read_recipe(self.recipe).get("name", "eval")))

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The entries of its tasks."""
        entries = self.set.get("tasks", read_recipe(self.recipe).get("tasks", []))
        return [{"name": entry["task"], **entry} for entry in entries]


@dataclass(frozen=True)
class Endpoint:
    """A number per item: see `training/analysis` for how it is compared.

    stage, eval, task: whose `<task>.jsonl` holds it. where: dotted paths into a row with the value, or the list of
    values, that they must have. value: dotted path to a boolean or number; per: to what it is divided by. cluster: to
    what makes items dependent. margin: of the equivalence test, in the unit of the value.
    """

    name: str
    stage: str
    eval: str
    task: str
    value: str
    where: dict = field(default_factory=dict)
    per: str | None = None
    cluster: str | None = None
    margin: float | None = None
    higher_is_better: bool = True
    unit: str = "share"


@dataclass(frozen=True)
class ExperimentArguments:
    """The keys of an experiment's recipe.

    scale: smoke, small or the name of a model; a smoke's report says that it answers nothing. arms: by name, mappings
    with condition, and injection_mode, operators, condition_seed (`seed` for the seed of each run) and dose. corpus:
    the corpus recipe, prepared once for all arms. stages, evals: in their order. comparisons: pairs of arms, baseline
    first; the first pair is the primary comparison. primary, secondary, exploratory: endpoints. alpha: of all tests.
    deviations: from the protocol, in sentences, for the report; they may be added at any start.

    data_root: where local data begin. accelerate_config: of the launches; by default accelerate_configs/cpu.yaml or,
    on GPUs, single_gpu.yaml and ddp.yaml. devices_per_step: GPUs, or on a CPU cores, of one step; as many steps run at
    the same time as fit, at most max_parallel. only_arms, only_seeds, only_corpus, only_report: do
    a part now. report: write it at the end.
    plan: print tokens, operations, hours and price instead, for plan_devices of plan_device at plan_utilisation of
    their peak and plan_price per device and hour. slurm: write job files instead, with slurm_partition and
    slurm_options (lines behind #SBATCH).
    """

    name: str = "experiment"
    scale: str = "smoke"
    question: str = "Does one token per multiplication fact help a GPT-2-class language model with arithmetic?"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    arms: dict | str | None = None
    corpus: str | None = None
    stages: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    evals: list[str] = field(default_factory=list)  # like stages
    comparisons: list[str] = field(default_factory=list)  # pairs, likewise
    primary: dict | str | None = None
    secondary: list[str] = field(default_factory=list)  # like stages
    exploratory: list[str] = field(default_factory=list)  # like stages
    alpha: float = 0.05
    deviations: list[str] = field(default_factory=list)
    output_dir: str = "runs/experiment"
    data_root: str = "."
    accelerate_config: str | None = None
    devices_per_step: int = 1
    max_parallel: int | None = None
    only_arms: list[str] = field(default_factory=list)
    only_seeds: list[int] = field(default_factory=list)
    only_corpus: bool = False
    only_report: bool = False
    report: bool = True
    plan: bool = False
    plan_device: str = "A100"
    plan_devices: int = 8
    plan_utilisation: float = 0.4
    plan_price: float = 2.0
    slurm: bool = False
    slurm_partition: str | None = None
    slurm_options: list[str] = field(default_factory=list)

    def __post_init__(self):
        for key in ("arms", "primary"):
            object.__setattr__(self, key, _mapping(key, getattr(self, key)))
        for key, kind in (
            ("stages", Stage),
            ("evals", Evaluation),
            ("secondary", Endpoint),
            ("exploratory", Endpoint),
        ):
            object.__setattr__(self, key, [_build(kind, _mapping(key, entry), key) for entry in getattr(self, key)])
        object.__setattr__(self, "primary", _build(Endpoint, self.primary, "primary"))
        object.__setattr__(self, "arms", [_arm(name, arm) for name, arm in self.arms.items()])
        pairs = [json.loads(pair) if isinstance(pair, str) else pair for pair in self.comparisons]
        object.__setattr__(self, "comparisons", [tuple(pair) for pair in pairs])
        self._check_seeds()
        self._check_stages()
        self._check_endpoints()
        if not self.corpus:
            raise ValueError("corpus is not set; name the recipe of the corpus that all arms read")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it lies between 0 and 1, such as 0.05")
        for key, least in (("devices_per_step", 1), ("max_parallel", 1), ("plan_devices", 1)):
            if (value := getattr(self, key)) is not None and value < least:
                raise ValueError(f"{key} is {value}; it is at least {least}")
        for key, known in (("only_arms", [arm.name for arm in self.arms]), ("only_seeds", self.seeds)):
            if unknown := [value for value in getattr(self, key) if value not in known]:
                raise ValueError(f"{key} has {unknown[0]!r}, which the recipe has not: it has {known}")

    @property
    def endpoints(self) -> list[Endpoint]:
        return [self.primary, *self.secondary, *self.exploratory]

    @property
    def recipes(self) -> list[str]:
        """The files of all recipes that the experiment names, each once."""
        return list(dict.fromkeys(map(str, [self.corpus, *(each.recipe for each in (*self.stages, *self.evals))])))

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def run_dir(self, arm: str, seed: int, stage: str) -> Path:
        return Path(self.output_dir) / f"{arm}-s{seed}" / stage

    def declared(self) -> dict[str, Any]:
        """Return what the experiment is, as plain JSON types: all keys but the `FREE_KEYS`."""
        kept = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in FREE_KEYS}
        return json.loads(json.dumps(kept, default=asdict))

    def _check_seeds(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; list each seed once, whole numbers from 0 on")
        if len({arm.name for arm in self.arms}) < 2:
            raise ValueError(f"arms has {[arm.name for arm in self.arms]}; an experiment compares at least two")

    def _check_stages(self) -> None:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages are called alike ({', '.join(names)}); give each its own name")
        for place, stage in enumerate(self.stages):
            if stage.program not in ("pretrain", "sft", "grpo") or (stage.program == "pretrain") != (place == 0):
                raise ValueError(
                    f"stage '{stage.name}' has program '{stage.program}'; the first stage is pretrain, the others sft "
                    "or grpo"
                )
            start = stage.start or (names[place - 1] if place else None)
            if place and start not in names[:place]:
                raise ValueError(f"stage '{stage.name}' starts from '{start}'; name one of {names[:place]}")
            object.__setattr__(stage, "start", start)
        if not names:
            raise ValueError("stages is empty; the first is `- {name: pretrain, program: pretrain, recipe: …}`")
        evals = [each.name for each in self.evals]
        if len(set(evals)) < len(evals):
            raise ValueError(f"two evaluations are called alike ({', '.join(evals)}); set another `name`")
        for each in self.evals:
            if unknown := [stage for stage in each.stages if stage not in names]:
                raise ValueError(f"evaluation '{each.name}' is of stage '{unknown[0]}'; the stages are {names}")

    def _check_endpoints(self) -> None:
        evals = {each.name: each for each in self.evals}
        for endpoint in self.endpoints:
            measured = evals.get(endpoint.eval)
            if measured is None or endpoint.stage not in measured.stages:
                raise ValueError(
                    f"endpoint '{endpoint.name}' is of evaluation '{endpoint.eval}' after stage '{endpoint.stage}', "
                    f"which is not made; evals has { ({name: each.stages for name, each in evals.items()}) }"
                )
            tasks = [task["name"] for task in measured.tasks]
            if endpoint.task not in tasks:
                raise ValueError(
                    f"endpoint '{endpoint.name}' is of task '{endpoint.task}'; '{endpoint.eval}' has {tasks}"
                )
            if endpoint.margin is not None and endpoint.margin <= 0:
                raise ValueError(f"endpoint '{endpoint.name}' has margin {endpoint.margin}; it is above zero")
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) < len(names):
            raise ValueError(f"two endpoints are called alike ({', '.join(names)}); give each its own name")
        arms = [arm.name for arm in self.arms]
        for pair in self.comparisons:
            if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(arms):
                raise ValueError(f"comparisons has {list(pair)}; give pairs of two of the arms {arms}, baseline first")
        if not self.comparisons:
            raise ValueError(f"comparisons is empty; give pairs of arms, such as [{arms[0]}, {arms[1]}]")


def _arm(name: str, keys: Any) -> Arm:
    if not _NAME.fullmatch(name):
        raise ValueError(f"an arm is called {name!r}; it names folders: letters, digits, '_', '.', '+', '-'")
    keys = _mapping(f"arm '{name}'", keys)
    if unknown := set(keys) - set(_ARM_KEYS):
        raise ValueError(f"arm '{name}' has unknown keys {sorted(unknown)}; the keys are {', '.join(_ARM_KEYS)}")
    keys = {key: check_type(f"arm '{name}'", key, value, _ARM_KEYS[key]) for key, value in keys.items()}
    arm = Arm(name, **{"condition": name, **keys})
    if isinstance(arm.condition_seed, str) and arm.condition_seed != SEED_OF_RUN:
        raise ValueError(f"arm '{name}' has condition_seed {arm.condition_seed!r}; a number, or `{SEED_OF_RUN}`")
    resolve_condition(arm.condition, arm.injection_mode, arm.operators, arm.seed_of_condition(0))
    return arm


def _build(kind: type, entry: Mapping[str, Any], key: str) -> Any:
    hints = get_type_hints(kind)
    if unknown := set(entry) - set(hints):
        raise ValueError(f"{key}: {dict(entry)} has unknown keys {sorted(unknown)}; it has {', '.join(hints)}")
    needed = [each.name for each in fields(kind) if each.default is each.default_factory]  # neither has been given
    if missing := [name for name in needed if name not in entry]:
        raise ValueError(f"{key}: {dict(entry)} lacks {', '.join(missing)}")
    built = kind(**{name: check_type(key, name, value, hints[name]) for name, value in entry.items()})
    name = getattr(built, "name", "")
    if kind is Stage and not _NAME.fullmatch(name):
        raise ValueError(f"{key}: a stage is called {name!r}; it names a folder: letters, digits, '_', '.', '+', '-'")
    return built


def _mapping(key: str, value: Any) -> dict[str, Any]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{key} is {value!r}, neither a mapping nor JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {value!r}; it is a mapping, `key: value`")
    return value
