"""TRL's GRPO trainer on completions that are a function of the policy and of (data_seed, step)."""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer import grpo_trainer
from trl.trainer.utils import split_tensor_dict

from training.core.best_checkpoint import BestCheckpointMixin
from training.core.fused_head import score_supervised_positions_on_cpu
from training.core.grpo_recipe import GrpoArguments
from training.core.tracking import Throughput
from training.core.trl_trainer import TrlTrainerMixin
from training.evals.reply_measures import seed_of
from training.evals.rewards import Rewards
from training.evals.subject import Subject
from training.rl.episodes import Episodes
from training.rl.held_out_prompts import HeldOutPromptsMixin
from training.rl.prompts import Prompt
from training.rl.rewards_for_trl import reward_functions
from training.rl.samples import Samples, decode, free_decoding


class PolicyTrainer(BestCheckpointMixin, HeldOutPromptsMixin, TrlTrainerMixin, GRPOTrainer):
    """TRL's trainer on prompts of episodes.

    TRL decodes, calls the rewards, and computes advantages and loss. A completion is drawn with random numbers of its
    own, a function of data_seed, its prompt's place in the run and its number in the group: interruptions and the
    number of processes do not change it, and both arms draw with the same ones. With `use_vllm` vLLM draws instead,
    with random numbers of its own, so that an interrupted run goes on with other completions.
    """

    selected_by = "eval_pass_at_1"
    larger_is_better = True

    def __init__(
        self,
        *,
        subject: Subject,
        episodes: Episodes,
        episode_steps: int,
        held_out: Sequence[Samples],
        rewards: Rewards,
        **kwargs,
    ):
        args: GrpoArguments = kwargs["args"]
        self.episodes, self.episode_steps, self.held_out = episodes, episode_steps, held_out
        self.subject_name = subject.name
        self._seeds: list[int] = []
        self._has_new_completions = False  # since the last table of them
        prompts_at_once = args.generation_batch_size // args.num_generations
        draws = -(-args.max_steps // args.steps_per_generation_batch)
        # TRL's sampler repeats each place of the run; what prompt stands there is known when its episode begins.
        places = Dataset.from_dict({"place": range(draws * prompts_at_once), "prompt": [""] * draws * prompts_at_once})
        functions = reward_functions(rewards)
        if args.use_vllm:
            args.generation_kwargs = {"logit_bias": dict.fromkeys(subject.unseen_ids, -100.0)}
        args.reward_weights = [rewards.weights[each.__name__] for each in functions]
        with _reference_is_a_copy_of(subject.model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rollout_func.*experimental")
            super().__init__(
                model=subject.model,
                processing_class=subject.tokenizer,
                reward_funcs=functions,
                train_dataset=places,
                eval_dataset=places,  # never read: see HeldOutPromptsMixin
                rollout_func=None if args.use_vllm else _roll_out,
                **kwargs,
            )
        outputs = ("log_probs", "entropy")
        score_supervised_positions_on_cpu(self.model, args.temperature, outputs, args.has_entropy_bonus)
        if self.ref_model is not None:
            score_supervised_positions_on_cpu(self._plain(self.ref_model), args.temperature, outputs[:1])
        self.work = PolicyWork(self)
        self.throughput = Throughput(self.work, self.args.world_size)
        self.add_callback(self.work)
        self.add_callback(self.throughput)

    # Completions

    @contextlib.contextmanager
    def policy(self) -> Iterator[Subject]:
        """Give the policy with all its weights on every process, in evaluation mode, and ready to generate."""
        training = self.model.training
        with (
            warnings.catch_warnings(category=FutureWarning, action="ignore"),
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
            _without_hooks(model) if self.engine == "DEEPSPEED-ZERO3" else contextlib.nullcontext(),
        ):
            model.eval()
            yield self._subject(model)
            model.train(training)

    def _plain(self, model: torch.nn.Module) -> torch.nn.Module:
        return self.accelerator.unwrap_model(model, keep_torch_compile=False)

    def _subject(self, model: torch.nn.Module) -> Subject:
        return Subject(model, self.processing_class, self.subject_name, self.args.bf16)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        args, before = self.args, self.state.num_input_tokens_seen
        prompts = self._prompts_at([each["place"] for each in inputs])
        # A group may begin on one process and end on another.
        first = self.accelerator.process_index * len(inputs)
        self._seeds = [
            seed_of(args.data_seed, 0, each["place"], (first + number) % args.num_generations)
            for number, each in enumerate(inputs)
        ]
        rows = [
            {"prompt": self._subject(self.model).prompt(each.question), "question": each.question, "gold": each.gold}
            for each in prompts
        ]
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # TRL's, about a call of its own
            scored = super()._generate_and_score_completions(rows)
        self.work.count(self.state.num_input_tokens_seen - before)
        self._has_new_completions = True
        return scored

    def _prompts_at(self, places: list[int]) -> list[Prompt]:
        """Return the prompts of some places of one batch; sample the pool of an episode that begins with it."""
        per_episode = self.episodes.prompts_per_episode
        number = places[0] // per_episode
        if number > 0 and self.episodes.filter_prompts and self.state.global_step == number * self.episode_steps:
            with self._paused(), self.policy() as subject:
                self.episodes.measure(number, subject, self.accelerator, self.say)
        prompts = self.episodes.open(number)
        return [prompts[place % per_episode] for place in places]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
        # TRL would read special names in a question as the tokens themselves.
        return [self._subject(self.model).encode(prompt) for prompt in prompts], None, {}

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        # TRL computes those of the reference outside the autocast of the loss, and they would differ by roundings.
        with self.autocast():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    # Logging and resuming

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.state.epoch = self.state.global_step / self.episode_steps  # episodes take the place of epochs
        wanted = self.log_completions
        self.log_completions = wanted and "loss" in logs and self._has_new_completions
        self._has_new_completions = self._has_new_completions and "loss" not in logs
        super().log(logs, start_time)
        self.log_completions = wanted

    def facts_for_seal(self) -> dict[str, Any]:
        return super().facts_for_seal() | {"flops": self.work.flops}

    def take_up(self, sealed: dict[str, Any]) -> None:
        super().take_up(sealed)
        self.work.flops = sealed["flops"]
        self._step = self.state.global_step * self.args.gradient_accumulation_steps  # TRL counts micro-steps

    def _save_rng_state(self, output_dir: str) -> None:
        """Save beside the state of this process's random numbers the completions that it has not finished with."""
        super()._save_rng_state(output_dir)
        if self.state.global_step % self.args.steps_per_generation_batch:
            batches = self._buffered_inputs
            # One tensor for all, which may be cut into micro-batches of another size later.
            tensors = {
                name: torch.cat([batch[name] for batch in batches]) if value.dim() else value.clone()
                for name, value in batches[0].items()
            }
            save_file(tensors, self._completions_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and self.state.global_step % self.args.steps_per_generation_batch:
            before, now = self.resumed_from["num_processes"], self.args.world_size
            if before != now:
                raise ValueError(
                    f"'{checkpoint}' was saved by {before} process(es) in the middle of their completions, and "
                    f"{now} cannot share those; start with {before}"
                )
            tensors = load_file(self._completions_file(checkpoint), device=str(self.args.device))
            self._buffered_inputs = split_tensor_dict(tensors, self.args.steps_per_generation)

    def _completions_file(self, folder: str) -> Path:
        return Path(folder) / f"completions_{self.accelerator.process_index}.safetensors"


class PolicyWork(TrainerCallback):
    """Count what a run has done: completions, tokens of prompts and completions, and floating-point operations.

    The operations are those of drawing the completions, of the reference, and of training on them; those of pools and
    held-out prompts are not among them.
    """

    def __init__(self, trainer: PolicyTrainer):
        self.trainer, self.flops = trainer, 0
        self._after: dict[int, dict[str, int]] = {0: self._now(0)}

    def count(self, tokens: int) -> None:
        """Add the tokens of one batch of completions and of their prompts, over all processes."""
        args, config = self.trainer.args, self.trainer.accelerator.unwrap_model(self.trainer.model).config
        # A forward pass is a third of what a token costs in training.
        forwards = 1 + bool(args.beta) + (args.steps_per_generation_batch > 1)
        passes = args.num_iterations + forwards / 3
        self.flops += round(passes * tokens * config.flops_per_token(tokens // args.generation_batch_size))

    def on_train_begin(self, args, state, control, **kwargs):
        self._after[state.global_step] = self._now(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self._after[state.global_step] = self._now(state.global_step)

    def __call__(self, step: int) -> dict[str, int]:
        """Return what was done after a step that is over."""
        return self._after[step]

    def _now(self, step: int) -> dict[str, int]:
        args = self.trainer.args
        return {
            "completions": -(-step // args.steps_per_generation_batch) * args.generation_batch_size,
            "tokens": self.trainer.state.num_input_tokens_seen,
            "flops": self.flops,
        }


def _roll_out(prompts: list[str], trainer: PolicyTrainer) -> dict[str, Any]:
    """Draw a completion for each prompt, as TRL's `rollout_func` does it."""
    args = trainer.args
    decoding = free_decoding(args.max_completion_length, args.temperature, 1, args.top_p, args.top_k)
    with trainer.policy() as subject:
        ids, _, _ = trainer._tokenize_prompts(prompts)
        replies = decode(subject, ids, decoding, trainer._seeds, args.decode_batch_size)
    end = [subject.end_of_text_id]
    completions = [reply.ids + end if reply.finish == "end_of_text" else reply.ids for reply in replies]
    return {"prompt_ids": ids, "completion_ids": completions, "logprobs": None}


@contextlib.contextmanager
def _without_hooks(model: torch.nn.Module) -> Iterator[None]:
    """Take away what DeepSpeed does before a forward pass and TRL leaves there: all processes wait for each other, of
    which one may have more to draw than another."""
    hooks = dict(model._forward_pre_hooks)
    model._forward_pre_hooks.clear()
    try:
        yield
    finally:
        model._forward_pre_hooks.update(hooks)


@contextlib.contextmanager
def _reference_is_a_copy_of(model: torch.nn.Module) -> Iterator[None]:
    """Let TRL copy the model where it would load its reference by the name in the config: without the revision, and as
    a class of Transformers, whose positions count the padding before a prompt."""
    load = grpo_trainer.create_model_from_path
    grpo_trainer.create_model_from_path = lambda *args, **kwargs: copy.deepcopy(model)
    try:
        yield
    finally:
        grpo_trainer.create_model_from_path = load
