import os
import signal
from types import SimpleNamespace

import pytest

from training.core import interruption
from training.core.interruption import StopOnSignal


def step_end(stopper):
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    stopper.on_step_end(SimpleNamespace(world_size=1), None, control)
    return control


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signal_asks_for_a_checkpoint_and_the_end_at_the_next_step(number, code):
    with StopOnSignal() as stopper:
        assert not step_end(stopper).should_save
        os.kill(os.getpid(), number)
        control = step_end(stopper)
    assert control.should_save
    assert control.should_training_stop
    assert stopper.exit_code == code


def test_repeated_signals_change_nothing_and_the_first_one_decides():
    with StopOnSignal() as stopper:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert stopper.exit_code == 130


def test_second_ctrl_c_by_a_person_ends_at_once(monkeypatch):
    monkeypatch.setattr(interruption, "SAME_CTRL_C_SECONDS", -1.0)
    with StopOnSignal(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopOnSignal():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
