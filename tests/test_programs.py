"""The real programs, launched as people launch them: interrupted, killed, on several processes, and read by
strangers."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest
import torch

from modeling import DomainGPT2ForCausalLM
from tests.conftest import PROJECT, assert_close_run, assert_same_run, pretrain_here, rows_with, run_command
from tests.programs import NO_GPU, ONE_PROCESS, program_command, run_here, run_to_the_end, start, wait_for_step
from tokenization import MulFactTokenizer
from training.core.checkpoint import checkpoint_step, list_checkpoints
from training.core.tracking import MetricsFile

pytestmark = pytest.mark.long
# Long enough to be caught in the middle several times.
STEPS = 24
SCIENCE = ("--max_steps", STEPS, "--eval_steps", 8, "--save_steps", 4, "--save_total_limit", 9)


@pytest.fixture(scope="module")
def reference(recipe, tmp_path_factory) -> Path:
    """An uninterrupted run in one process."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert pretrain_here(recipe, run, *SCIENCE) == 0
    return run


def pretrain_command(recipe: Path, run: Path, *arguments: object, **launcher: object) -> list[str]:
    return program_command("pretrain.py", recipe, run, *SCIENCE, *arguments, **launcher)


def test_run_killed_and_stopped_and_resumed_is_the_uninterrupted_run(recipe, reference, tmp_path):
    run = tmp_path / "run"

    # SIGKILL behind checkpoint-4: nothing can be saved, rows behind the checkpoint stand in the metrics.
    process = start(pretrain_command(recipe, run))
    wait_for_step(process, run, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at, killed_at_row = checkpoint_step(list_checkpoints(run)[-1]), max(rows_with(run, "loss"))
    assert 4 <= killed_at < STEPS
    # ... and a checkpoint that was being written.
    (run / ".saving" / "checkpoint-99").mkdir(parents=True, exist_ok=True)

    # SIGTERM to the single-process launcher, which does not pass it on: the program notices that it died.
    process = start(pretrain_command(recipe, run, **ONE_PROCESS))
    wait_for_step(process, run, killed_at_row + 1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()  # ends when the program, which holds the other end of the pipe, has ended
    stopped_at = checkpoint_step(list_checkpoints(run)[-1])
    assert f"continuing from {run / f'checkpoint-{killed_at}'}" in out
    assert killed_at < stopped_at < STEPS, out[-3000:]
    assert f"stopped: {run / f'checkpoint-{stopped_at}'}" in out

    # SIGTERM to the program and the workers of its loader, as schedulers send it; it says so with its exit code.
    process = start(pretrain_command(recipe, run, "--dataloader_num_workers", 2), start_new_session=True)
    wait_for_step(process, run, stopped_at + 1)
    os.killpg(process.pid, signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 75, out[-3000:]

    # To the end, launched as the README says.
    out = run_to_the_end(pretrain_command(recipe, run, **ONE_PROCESS))
    assert f"finished: {run / f'checkpoint-{STEPS}'}" in out
    assert_same_run(reference, run, STEPS)


def test_ctrl_c_saves_at_the_next_step_and_exits_130(recipe, tmp_path, monkeypatch):
    run, on_log = tmp_path / "run", MetricsFile.on_log

    def log_and_press_ctrl_c(self, args, state, *more, **kwargs):
        on_log(self, args, state, *more, **kwargs)
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsFile, "on_log", log_and_press_ctrl_c)
    assert run_here("pretrain.py", recipe, run, *SCIENCE, "--save_steps", 1000) == 130
    assert [checkpoint_step(path) for path in list_checkpoints(run)] == [3]


def test_two_processes_and_then_two_machines_give_the_trajectory_of_one_process(recipe, reference, tmp_path):
    """One of the two processes is told to stop, and both do; two machines take the run to its end."""
    run = tmp_path / "run"
    process = start(pretrain_command(recipe, run, "--per_device_train_batch_size", 1, config="ddp", processes=2))
    wait_for_step(process, run, 8)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "pretrain.py" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode != 0
    stopped_at = checkpoint_step(list_checkpoints(run)[-1])
    assert 8 <= stopped_at < STEPS, out[-3000:]

    outputs = run_on_two_machines(recipe, run)
    assert f"continuing from {run / f'checkpoint-{stopped_at}'}" in "".join(outputs)
    # 4 micro-steps on 2 processes, then 1, instead of 2 on one: the same tokens per step, summed in another order.
    assert_close_run(reference, run, STEPS, tolerance=5e-5)


def run_on_two_machines(recipe: Path, run: Path) -> list[str]:
    """Two launches, each with its own machine rank, meet at one address; here both are on this machine."""
    port = str(20_000 + os.getpid() % 20_000)
    options = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port)
    processes = []
    for rank in range(2):
        command = pretrain_command(recipe, run, config="multi_node", processes=2)
        # Later options win over the ones that `launch` gives.
        script = command.index(str(PROJECT / "training" / "pretrain.py"))
        processes.append(start([*command[:script], *options, "--machine_rank", str(rank), *command[script:]]))
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(out[-3000:] for out in outputs)
    return outputs


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="needs a GPU")
def test_compiled_bf16_on_a_gpu_agrees_with_fp32(recipe, reference, tmp_path):
    out = run_to_the_end(
        pretrain_command(recipe, tmp_path / "run", "--bf16", "true", "--torch_compile", "true", config="single_gpu")
    )
    assert "MFU" in out
    assert_close_run(reference, tmp_path / "run", STEPS, tolerance=2e-2)


STRANGER = """
import importlib.util, json, sys
for name in ("tokenization", "modeling", "training"):
    assert importlib.util.find_spec(name) is None, name + " can be imported"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("What is 6 * 9 = 54?", return_tensors="pt").input_ids
with torch.no_grad():
    logits = model(ids).logits[0, -1]
prompt = tokenizer("What is", return_tensors="pt")
generated = model.generate(**prompt, max_new_tokens=8, do_sample=False)
torch.save({"class": type(model).__name__, "ids": ids, "logits": logits, "generated": generated}, sys.argv[2])
"""


def test_stranger_loads_the_checkpoint_with_equal_logits_and_injecting_ids(reference, tmp_path):
    folder, answers = reference / f"checkpoint-{STEPS}", tmp_path / "answers.pt"
    (tmp_path / "stranger.py").write_text(STRANGER)
    libraries = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # -S skips the .pth files through which an editable install is found, -P the folder of the script.
    command = [sys.executable, "-S", "-P", tmp_path / "stranger.py", folder, answers]
    subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": libraries, "HF_HUB_OFFLINE": "1"}, check=True
    )
    theirs = torch.load(answers, weights_only=True)
    tokenizer, model = MulFactTokenizer.from_pretrained(folder), DomainGPT2ForCausalLM.from_pretrained(folder).eval()
    assert theirs["class"] == "GPT2LMHeadModel"
    assert 50342 in theirs["ids"][0].tolist()
    assert theirs["ids"][0].tolist() == tokenizer("What is 6 * 9 = 54?").input_ids
    with torch.no_grad():
        torch.testing.assert_close(theirs["logits"], model(theirs["ids"]).logits[0, -1])
    ours = model.generate(**tokenizer("What is", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    assert theirs["generated"].tolist() == ours.tolist()


def test_bad_input_is_one_line_and_exit_code_2(recipe):
    done = run_command([sys.executable, PROJECT / "training" / "pretrain.py", recipe, "--learning_rat", "1"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "pretrain.py: error: unknown option '--learning_rat' (did you mean 'learning_rate'?)"
    )
    assert "Traceback" not in done.stderr
