"""Six updates of LPO on the Gaussian backbone: straight, and killed or stopped on the way and resumed.

Run as a script, this file starts the processes that get killed.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import die_with, worked
from pydantic import Field
from torch import Tensor

from backbones.gaussian import Gaussian
from lpobench.learning import checkpoint
from lpobench.learning.train import Preempted, TrainResult, train
from lpobench.sampling.policy import Policy
from lpobench.sampling.schedule import VariancePreserving
from lpobench.signals import SIGNALS, StopFlag
from lpobench.spec import LoraSettings, SamplingSettings, TrainSettings
from lpobench.types import Context
from methods.lpo import LPO


class PrefersLarge:
    """A latent reward: 8 times the mean latent."""

    latent_space = "gaussian"

    def score(self, noisy):
        return 8 * noisy.latents.mean((1, 2, 3))


class Watched(LPO):
    """LPO that calls back before it computes the loss of an update."""

    before: dict[int, Callable[[], None]] = Field(default_factory=dict)
    """what to do, by the number of the loss computed in this process"""
    losses: list[int] = Field(default_factory=list)
    """rows of those computed"""

    def loss(self, ctx, rows):
        self.losses.append(len(rows))
        self.before.get(len(self.losses), lambda: None)()
        return super().loss(ctx, rows)


def run(folder: Path, before: dict[int, Callable[[], None]] | None = None) -> tuple[TrainResult, Tensor]:
    """Five steps of four prompts give a few pairs per round: updates of 4 rows, checkpoints within rounds."""
    policy = Policy(
        Gaussian(VariancePreserving.scaled_linear()), SamplingSettings(num_steps=5), LoraSettings()
    )
    settings = TrainSettings(
        num_updates=6, prompts_per_round=4, minibatch=4, learning_rate=0.01, checkpoint_every=1
    )
    with StopFlag() as stop:
        result = train(
            Watched(min_gap=(0.0, 0.0), before=before or {}),
            Context(policy, torch.Generator(), PrefersLarge()),
            settings,
            folder,
            seed=0,
            prompts=["-1", "0", "1", "2", "3"],
            stop=stop,
            fingerprint="gaussian-lpo-s0",
            progress=False,
        )
    return result, policy.trained[0].detach().clone()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run that nobody disturbs: what it logged and where it ended."""
    folder = tmp_path_factory.mktemp("straight")
    result, weight = run(folder)
    assert result.rounds > 1
    assert result.trained / result.rounds > 4  # there are checkpoints within a round
    assert weight.item() != 0
    return read_metrics(folder), weight


def read_metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of two runs: killed in update 4; killed writing the second file of checkpoint 4."""
    folder = tmp_path_factory.mktemp("killed")
    worked([__file__, folder])
    return folder


@pytest.mark.parametrize("moment", ["computing", "writing"])
def test_three_updates_then_kill_9_then_three_more(killed, straight, moment):
    folder = killed / moment
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left[-2:] == ["step-00000002", "step-00000003"]
    assert len(left) == (2 if moment == "computing" else 3)  # half of checkpoint 4 in a temporary folder
    assert [line["update"] for line in read_metrics(folder)][:3] == [1, 2, 3]

    result, weight = run(folder)
    assert result.resumed_from == 3
    assert torch.equal(weight, straight[1])
    assert read_metrics(folder) == straight[0]
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_at_the_next_update_and_leaves(tmp_path, straight, number):
    handlers = [signal.getsignal(each) for each in SIGNALS]
    name = signal.Signals(number).name
    with pytest.raises(Preempted, match=f"{name}: saved at update 2 of 6") as error:
        run(tmp_path, {2: lambda: os.kill(os.getpid(), number)})
    assert error.value.exit_code == 75
    assert [signal.getsignal(each) for each in SIGNALS] == handlers

    result, weight = run(tmp_path)
    assert result.resumed_from == 2
    assert torch.equal(weight, straight[1])
    assert read_metrics(tmp_path) == straight[0]


def test_a_second_interrupt_does_not_wait(tmp_path):
    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {2: interrupt_twice})
    assert checkpoint.newest(tmp_path / "checkpoints").name == "step-00000001"


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self_at_the_second_file() -> None:
    write = checkpoint._write

    def write_half(path, content):
        if path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            kill_self()
        return write(path, content)

    checkpoint._write = write_half


if __name__ == "__main__":
    import peft  # noqa: F401  imported late by a run: here once, not in every child
    import torch._dynamo

    for name, deed in {"computing": kill_self, "writing": kill_self_at_the_second_file}.items():
        parent, child = os.getpid(), os.fork()  # before torch has any threads
        if child == 0:
            die_with(parent)
            run(Path(sys.argv[1]) / name, {4: deed})
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
