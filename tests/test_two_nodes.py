"""Two launches of Accelerate, each for a node of its own with one process, are one run: that of two processes on one
machine, whatever interrupts it."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT, assert_same_run
from tests.programs import NO_GPU, program_command, run_to_the_end, start, wait_for_step
from training.core.checkpoint import checkpoint_step, list_checkpoints

pytestmark = [
    pytest.mark.deep,
    pytest.mark.long,
    pytest.mark.skipif(not NO_GPU, reason="two processes would share one GPU; compares bits, which a GPU may change"),
]

STEPS = 24
SCIENCE = ("--max_steps", STEPS, "--eval_steps", 12, "--save_steps", 12, "--save_total_limit", 9)
# As many threads in a process of two as in one that is alone on its node: sums depend on it in the last bit.
THREADS = ("--num_cpu_threads_per_process", "2")


def command(recipe: Path, run: Path, config: str, *options: str) -> list[str]:
    """The launch of pretraining for two processes in all, with more options for the launcher."""
    words = program_command("pretrain.py", recipe, run, *SCIENCE, config=config, processes=2)
    script = words.index(str(PROJECT / "training" / "pretrain.py"))
    return [*words[:script], *THREADS, *options, *words[script:]]  # the last of several values counts


def start_nodes(recipe: Path, run: Path) -> list[subprocess.Popen]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    address = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port)
    return [
        start(command(recipe, run, "multi_node", *address, "--machine_rank", str(rank)), start_new_session=True)
        for rank in range(2)
    ]


def test_signal_to_one_node_saves_on_both_and_the_resumed_run_is_that_of_one_machine(recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run_to_the_end(command(recipe, one, "ddp"))

    nodes = start_nodes(recipe, two)
    wait_for_step(nodes[0], two, 3)
    nodes[1].send_signal(signal.SIGTERM)
    outputs = [node.communicate(timeout=200)[0] for node in nodes]
    stopped_at = checkpoint_step(list_checkpoints(two)[-1])
    assert all(node.returncode != 0 for node in nodes)
    assert 3 <= stopped_at < STEPS, outputs
    assert f"stopped: {two / f'checkpoint-{stopped_at}'}" in outputs[0]
    # The node that nobody has signalled, too, ended as a program that has saved.
    assert re.search(r"exitcode\s*: 75", outputs[0]), outputs[0][-3000:]

    nodes = start_nodes(recipe, two)
    outputs = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert f"continuing from {two / f'checkpoint-{stopped_at}'}" in outputs[0]
    assert_same_run(one, two, STEPS)
