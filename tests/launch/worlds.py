"""Runs of the toy in one, two and three processes, forked from one so that torch is imported once.

Run as a script with a folder: every process leaves `<scenario>-<rank>.json` there.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made import Brighter, register_toys, toy_spec
from processes import die_with
from torch import nn
from trained_unet import GUIDED, output, referred, trained
from unet_backbone import UNetBackbone

import lpobench.run
from lpobench.evaluation.plan import plan
from lpobench.evaluation.run import evaluate
from lpobench.launch import environment, ranks
from lpobench.plugin import UserError
from lpobench.run import execute, train_reward_only
from lpobench.sampling import Policy
from lpobench.scoring.generate import Painter
from methods.lpo import LPO

ROUNDS = {"num_updates": 6, "prompts_per_round": 5, "checkpoint_every": 1}


def a_run(folder: Path, out: str, **options) -> dict:
    """Rounds of 5 prompts, 6 images: shares of 3 processes are 1, 2, 2 and 2, 2, 2."""
    record = execute(toy_spec(folder, train=ROUNDS), folder / out, **options)
    return record.model_dump(mode="json")


def a_whole_run(folder: Path, out: str, **train) -> dict:
    """All weights are trained. Shares of an update of 5 rows go by 1: some processes have more passes than others."""
    train = {
        **ROUNDS,
        "num_updates": 4,
        "parameters": "all",
        "minibatch": 1,
        "gradient_accumulation": 5,
        **train,
    }
    return execute(toy_spec(folder, train=train), folder / out).model_dump(mode="json")


def split_unet(folder: Path, sharding: str) -> dict:
    """A UNet whose blocks are split one by one, with gradient checkpointing; two updates, then two more in another
    process's place. What it makes of some latents then, as policy and as reference.
    """
    start()
    for num_updates in (2, 4):
        policy = Policy(UNetBackbone(), GUIDED, "all", sharding=sharding)
        held = sum(weight.to_local().numel() if policy.split else weight.numel() for weight in policy.trained)
        rows = {"prompts_per_round": 3, "minibatch": 1, "gradient_accumulation": 3}
        trained(folder / f"unet-{sharding}", policy, num_updates, gradient_checkpointing=True, **rows)
    return {"made": output(policy).tolist(), "referred": referred(policy).tolist(), "held": held}


def numbers(folder: Path) -> dict:
    """What the functions of ranks give."""
    start()
    mine, in_one = ranks.rank() + 1, gradients()
    ranks.BUCKET = 3  # a parameter of two numbers at a time
    return {
        "world": ranks.world(),
        "share": [ranks.share(5).start, ranks.share(5).stop],
        "gather": ranks.gather(mine),
        "from_main": ranks.from_main(lambda: mine),
        "anywhere": ranks.anywhere(mine == 2),
        "first": ranks.first(None if mine == 1 else mine),
        "gradients": [in_one, gradients()],
    }


def gradients() -> list:
    """Sums of 1 + 2, of one that only the second process has, and of one that nobody has."""
    shared, partly, without = (nn.Parameter(torch.ones(2)) for _ in range(3))
    shared.grad = torch.full((2,), float(ranks.rank() + 1))
    partly.grad = torch.full((2,), 5.0) if ranks.rank() == 1 else None
    ranks.sum_gradients([shared, partly, without])
    return [shared.grad.tolist(), partly.grad.tolist(), without.grad]


def refused(folder: Path) -> None:
    """The main process alone finds something wrong, in a context that it alone would hold."""
    start()

    def fail():
        raise environment.PeerLost("the disk is full")

    with ranks.main_holds(fail):
        raise AssertionError("nobody gets here")


def torn(folder: Path) -> dict:
    """A reward fails in the second process only."""
    score = Brighter.score

    def fails(self, noisy):
        if ranks.rank() == 1:
            raise UserError("reward: no idea")
        return score(self, noisy)

    Brighter.score = fails
    return a_run(folder, "torn")


def stopped(folder: Path, make: Callable[[], dict]) -> dict:
    """The second process alone is asked to stop, in its third loss."""
    loss, losses = LPO.loss, []

    def watched(self, policy, rows):
        losses.append(len(rows))
        if len(losses) == 3 and ranks.rank() == 1:
            os.kill(os.getpid(), 10)
        return loss(self, policy, rows)

    LPO.loss = watched
    return make()


def stopped_between_images(folder: Path) -> dict:
    made = Painter.paint

    def interrupted(self, todo):
        if ranks.rank() == 1:
            os.kill(os.getpid(), 15)
        return made(self, todo)

    Painter.paint = interrupted
    return a_run(folder, "images")


def short_of_memory(folder: Path) -> dict:
    """The second process has room for one prompt while collecting and for one row in an update."""
    collect, loss = LPO.collect, LPO.loss

    def small_collect(self, ctx):
        rows = collect(self, ctx)
        if ranks.rank() == 1 and len(set(rows.prompts)) > 1:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 1 GiB")
        return rows

    def small_loss(self, policy, rows):
        if ranks.rank() == 1 and len(rows) > 1:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 1 GiB")
        return loss(self, policy, rows)

    LPO.collect, LPO.loss = small_collect, small_loss
    return a_run(folder, "short")


def an_evaluation(folder: Path, out: str) -> dict:
    """Six prompts, two images of each."""
    toy_spec(folder)
    settings = ["eval.num_steps=3", "eval.guidance_scale=1", "eval.images_per_prompt=2", "device=cpu"]
    made = plan("toy", None, ["meter"], None, None, settings, {"prompts": str(folder / "eval.csv")})
    [outcome] = evaluate(made, folder / out)
    return outcome.record.model_dump(mode="json")


def start() -> None:
    ranks.start(torch.device("cpu"))


SCENARIOS: dict[str, tuple[int, Callable[[Path], object]]] = {
    "numbers": (2, numbers),
    "refused": (2, refused),
    "one": (1, lambda folder: a_run(folder, "one")),
    "two": (2, lambda folder: a_run(folder, "two")),
    "three": (3, lambda folder: a_run(folder, "three")),
    "whole-one": (1, lambda folder: a_whole_run(folder, "whole-one")),
    "whole-two": (2, lambda folder: a_whole_run(folder, "whole-two")),
    "split-two": (2, lambda folder: a_whole_run(folder, "split-two", sharding="fsdp2")),
    "split-three": (3, lambda folder: a_whole_run(folder, "split-three", sharding="fsdp2")),
    "split-stopped": (
        2,
        lambda folder: stopped(folder, lambda: a_whole_run(folder, "split-stopped", sharding="fsdp2")),
    ),
    "split-resumed": (3, lambda folder: a_whole_run(folder, "split-stopped", sharding="fsdp2")),
    "split-twice": (2, lambda folder: split_unet(folder, "fsdp2")),
    "split-once": (1, lambda folder: split_unet(folder, "none")),
    "split-alone": (1, lambda folder: a_whole_run(folder, "split-alone", sharding="fsdp2")),
    "again": (2, lambda folder: a_run(folder, "two")),
    "reward": (2, lambda folder: train_reward_only(toy_spec(folder), folder / "reward")),
    "own-reward": (2, lambda folder: a_run(folder, "reward", train_reward=True)),
    "crowd": (3, lambda folder: execute(toy_spec(folder, train={"prompts_per_round": 2}), folder / "crowd")),
    "few": (3, lambda folder: a_run(folder, "few", limit=2)),
    "torn": (2, torn),
    "stopped": (2, lambda folder: stopped(folder, lambda: a_run(folder, "stopped"))),
    "resumed": (1, lambda folder: a_run(folder, "stopped")),
    "images": (2, stopped_between_images),
    "short": (2, short_of_memory),
    "evaluation-one": (1, lambda folder: an_evaluation(folder, "evaluation-one")),
    "evaluation-two": (2, lambda folder: an_evaluation(folder, "evaluation-two")),
}


def play(name: str, folder: Path) -> None:
    """One scenario: its processes side by side, to their end."""
    num, act = SCENARIOS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [fork(name, rank, num, port, act, folder) for rank in range(num)]
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name


def fork(name: str, rank: int, num: int, port: int, act: Callable[[Path], object], folder: Path) -> int:
    parent = os.getpid()
    child = os.fork()  # before torch has any threads
    if child:
        return child
    die_with(parent)
    if num > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()})
    try:
        found = {"result": act(folder)}
    except UserError as error:
        found = {"error": str(error), "code": error.exit_code}
    (folder / f"{name}-{rank}.json").write_text(json.dumps(found, default=str))
    os._exit(0)


if __name__ == "__main__":
    import peft  # noqa: F401  imported late by a run: here once, not in every child

    torch.set_num_threads(1)
    register_toys(pytest.MonkeyPatch())
    assert lpobench.run
    for scenario in SCENARIOS:
        play(scenario, Path(sys.argv[1]))
