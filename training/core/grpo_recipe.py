"""The keys of a GRPO recipe: where it starts, its prompts, its rewards and the training, and which of them may change
in a run."""

import importlib.util
import json
import math
from dataclasses import dataclass, field

import torch
from trl import GRPOConfig

from training.core.hub_arguments import LICENSE, check_hub_arguments
from training.core.pretrain_recipe import REQUIRED as REQUIRED_IN_PRETRAINING
from training.core.sft_recipe import FREE_KEYS as FREE_KEYS_OF_SFT

_WHOLE_NUMBERS = {
    "max_steps": 1,
    "total_batch_items": 2,
    "num_generations": 2,
    "num_iterations": 1,
    "max_completion_length": 1,
    "decode_batch_size": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "per_device_train_batch_size": 1,
    "seed": 0,
}
# What TRL or Transformers would do in silence, or what has a name of its own here.
_REQUIRED = REQUIRED_IN_PRETRAINING | {
    "shuffle_dataset": False,
    "reward_weights": None,
    "steps_per_generation": None,
    "repetition_penalty": 1.0,
    "min_p": None,
    "generation_kwargs": None,
    "cache_implementation": None,
    "use_transformers_continuous_batching": False,
    "use_transformers_paged": False,
    "chat_template_kwargs": None,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "eval_delay": 0,
    "model_init_kwargs": None,
    "log_completions_hub_repo": None,
    "sync_ref_model": False,
    "cast_lm_head_to_fp32": False,
    "use_liger_kernel": False,
    "ds3_gather_for_generation": True,
    "trust_remote_code": False,
}
_INSTEAD = {
    "reward_weights": "say `rewards: {exact_answer: 1.0, …}`",
    "steps_per_generation": "it follows from generation_batch_size",
    "load_best_model_at_end": "the best checkpoint is kept and linked as `best`",
    "sync_ref_model": "a resumed run would go on with another reference",
    "shuffle_dataset": "prompts are in shuffled order already",
}

# What may differ when a run is resumed: where and how it runs and reports, never what it computes.
FREE_KEYS = FREE_KEYS_OF_SFT | frozenset(
    "decode_batch_size steps_per_generation log_completions num_completions_to_print log_unique_prompts "
    "vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_server_base_url vllm_server_host vllm_server_port "
    "vllm_server_timeout vllm_group_port min_pass_at_1 min_pass_at_k ignore_gate".split()
)


@dataclass(frozen=True)
class GrpoModelArguments:
    """The checkpoint to start from, a folder or a repository on the Hub, whose tokenizer is the condition. It is also
    the reference that `beta` keeps the policy close to."""

    model_name_or_path: str | None = None
    model_revision: str | None = None

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError(
                "model_name_or_path is not set; name a fine-tuned checkpoint to start from, such as "
                "--model_name_or_path runs/small/baseline-s0/sft_multiplications_3/best"
            )


@dataclass(frozen=True)
class GrpoDataArguments:
    """The prompts: `prompts` lists sources of questions with one number as the answer, whose paths begin at
    `data_root`.

    A source has the keys of fine-tuning sources (`training/data/sft_sources.py`; held_out gives the dev part), and may
    have first_episode and last_episode, between which it is in use: a curriculum. decontaminate: as in fine-tuning.
    episode_steps: for so many steps prompts are taken from one pool, and then from a new one. pool_prompts: prompts in
    a pool. pool_samples: completions of each, by which the pool is measured. filter_prompts: train on prompts only
    that some and not all of these answer right; off, on all that are in use. min_pass_at_1, min_pass_at_k: of the
    first pool, k being pool_samples; a start below either is refused, unless ignore_gate is set. max_dev_prompts: so
    many held-out ones are measured at every evaluation.
    """

    prompts: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    data_root: str = "."
    decontaminate: list[str] = field(default_factory=list)  # like prompts
    episode_steps: int = 50
    pool_prompts: int = 500
    pool_samples: int = 16
    filter_prompts: bool = True
    min_pass_at_1: float = 0.05
    min_pass_at_k: float = 0.25
    ignore_gate: bool = False
    max_dev_prompts: int = 200

    def __post_init__(self):
        if not self.prompts:
            raise ValueError("prompts is empty; a GRPO recipe lists at least one source, such as `- path: …`")
        for key, least in (("episode_steps", 1), ("pool_prompts", 1), ("pool_samples", 2), ("max_dev_prompts", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}; it is at least {least}")
        for key in ("min_pass_at_1", "min_pass_at_k"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it lies between 0 and 1")


@dataclass(frozen=True)
class RewardArguments:
    """The rewards by name with their weights (see `training/evals/rewards.py`).

    soft_limit_bytes, hard_limit_bytes: of length_limit. symmetric: false allows rewards that differ between the arms.
    """

    rewards: dict | str | None = field(default_factory=lambda: {"exact_answer": 1.0})
    soft_limit_bytes: int = 800
    hard_limit_bytes: int = 1200
    symmetric: bool = True

    def __post_init__(self):
        rewards = self.rewards
        if isinstance(rewards, str):
            try:
                rewards = json.loads(rewards)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"rewards is {rewards!r}, which is not JSON ({error}); write '{{\"exact_answer\": 1.0}}'"
                ) from error
            object.__setattr__(self, "rewards", rewards)
        if not isinstance(rewards, dict) or not rewards:
            raise ValueError(f"rewards is {rewards!r}; map names to weights, such as {{exact_answer: 1.0}}")


@dataclass
class GrpoArguments(GRPOConfig):
    """TRL's arguments with the defaults of this experiment, and keys of its own.

    total_batch_items: completions of one optimiser step over all processes; the accumulation follows from it.
    generation_batch_size: completions drawn at once, total_batch_items unless set; more of them, or more than one of
    num_iterations, train on completions of an earlier policy. num_generations_eval: samples of each held-out prompt
    for pass@k. decode_batch_size: completions decoded at once on a device. data_seed: orders the prompts and draws
    completions, `seed` unless set. early_stopping_patience: end after so many evaluations without a better one.
    `{condition}` and `{seed}` in `output_dir` are filled in.
    """

    output_dir: str = "runs/{condition}-s{seed}/grpo"
    seed: int = 0
    max_steps: int = 100
    total_batch_items: int = 256
    num_generations: int = 16
    num_generations_eval: int | None = 4
    decode_batch_size: int = 64
    early_stopping_patience: int | None = None
    learning_rate: float = 1e-6
    lr_scheduler_type: str = "constant_with_warmup"
    warmup_steps: float = 5
    beta: float = 1e-3  # TRL's default is no KL at all
    epsilon_high: float | None = 0.28  # of DAPO
    loss_type: str = "dr_grpo"
    scale_rewards: str = "none"
    mask_truncated_completions: bool = True
    max_completion_length: int | None = 512
    disable_dropout: bool = True  # it would make the policy differ from its own reference
    shuffle_dataset: bool | None = False
    bf16: bool = True
    gradient_checkpointing: bool | None = None  # TRL switches it on; models of this size have the memory
    logging_steps: float = 5
    logging_nan_inf_filter: bool = False
    log_completions: bool = True
    num_completions_to_print: int | None = 0
    eval_strategy: str = "steps"
    eval_steps: float | None = 25
    eval_on_start: bool = True
    save_steps: float = 25
    save_total_limit: int | None = 2
    report_to: str = "none"
    hub_license: str = LICENSE
    train_sampling_strategy: str = "sequential"
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        for key, smallest in _WHOLE_NUMBERS.items():
            value = getattr(self, key)
            if value is None or not math.isfinite(value) or int(value) != value or value < smallest:
                raise ValueError(f"{key} is {value}; it is a whole number and at least {smallest}")
        for key, required in _REQUIRED.items():
            if getattr(self, key) != required:
                raise ValueError(
                    f"{key} is {getattr(self, key)!r}, which would change the run in silence; "
                    f"{_INSTEAD.get(key, 'remove it')}"
                )
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}) follows from total_batch_items; "
                "remove it"
            )
        if self.generation_batch_size is None:
            self.generation_batch_size = self.total_batch_items
        if self.generation_batch_size < 1 or self.generation_batch_size % self.total_batch_items:
            raise ValueError(
                f"generation_batch_size ({self.generation_batch_size}) must be a multiple of total_batch_items "
                f"({self.total_batch_items}), the completions of one step; change one of them"
            )
        if self.use_vllm and importlib.util.find_spec("vllm") is None:
            raise ValueError(
                "use_vllm is true, but vllm is not installed; install it (it needs a GPU), or leave use_vllm out"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; completions are drawn, so it is above zero")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta is {self.beta}; the weight of the KL divergence is zero or above")
        if self.eval_strategy not in ("steps", "no") or self.save_strategy != "steps":
            raise ValueError(
                f"eval_strategy is {self.eval_strategy!r} and save_strategy {self.save_strategy!r}; runs evaluate by "
                "`steps` or `no`, and save by `steps`"
            )
        if self.eval_strategy == "steps" and self.eval_steps % self.save_steps:
            raise ValueError(
                f"eval_steps ({self.eval_steps}) must be a multiple of save_steps ({self.save_steps}), so that each "
                "evaluation has its checkpoint; change one of them"
            )
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience is {self.early_stopping_patience}; it is at least 1")
        if not self.num_generations_eval or self.num_generations_eval < 1:
            raise ValueError(f"num_generations_eval is {self.num_generations_eval}; it is at least 1")
        check_hub_arguments(self)
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        if self.per_device_eval_batch_size not in (8, self.num_generations_eval):
            raise ValueError(
                f"per_device_eval_batch_size is {self.per_device_eval_batch_size}, which nothing here uses; say "
                "decode_batch_size"
            )
        self.per_device_eval_batch_size = self.num_generations_eval
        super().__post_init__()

    @property
    def free_keys(self) -> frozenset[str]:
        """What may differ when a run is resumed; not the micro-batches where something is averaged over one."""
        averages = self.loss_type == "bnpo" or self.top_entropy_quantile < 1 or self.has_entropy_bonus
        return FREE_KEYS - {"per_device_train_batch_size", "gradient_accumulation_steps"} if averages else FREE_KEYS

    @property
    def has_entropy_bonus(self) -> bool:
        return self.entropy_coef != 0 or self.use_adaptive_entropy

    @property
    def steps_per_generation_batch(self) -> int:
        """How many optimiser steps are made on completions that were drawn at once."""
        return self.generation_batch_size // self.total_batch_items * self.num_iterations
