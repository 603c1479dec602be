"""LRM training by two processes gives what one gives."""

import os
import socket
import sys
import traceback
from pathlib import Path

import pytest
import tiny_unet
import torch
from processes import die_with, worked

from lpobench.launch import ranks
from rewards.lrm import LRMTraining
from rewards.lrm.fit import training_run
from rewards.lrm.train import new_model

TRAINING = LRMTraining(
    steps=3,
    batch_size=5,
    learning_rate=1e-5,
    warmup=1,
    validate_every=2,
    validation_pairs=7,
    ema_decay=0,
)


def fit(folder) -> None:
    """Train, and write what this process ends with."""
    torch.set_num_threads(1)
    backbone = tiny_unet.backbone()
    model = new_model(backbone, 7.5, seed=0)
    pairs, held_out = tiny_unet.pairs(8), tiny_unet.pairs(7, "validation_unique", 1)
    run = training_run(model, backbone.schedule, pairs, held_out, TRAINING, 0, torch.float32)
    run._gradients(torch.arange(5), torch.Generator().manual_seed(0))
    gradients = {name: parameter.grad.clone() for name, parameter in model.trainable().items()}
    model.zero_grad()
    losses, measured = [], run._gradients
    run._gradients = lambda rows, generator: losses.append(measured(rows, generator)) or losses[-1]
    best = run.fit(on_best=lambda: None)
    outcome = {"losses": losses, "accuracy": float(best.accuracy), "weights": best.weights}
    outcome |= {"gradients": gradients}
    torch.save(outcome, folder / f"{ranks.rank()}-of-{ranks.world()}.pt")


def fork(rank: int, world: int, port: int, folder: Path) -> int:
    """A process that trains with `world - 1` others."""
    parent, child = os.getpid(), os.fork()  # before torch has any threads
    if child:
        return child
    die_with(parent)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        ranks.start(torch.device("cpu"))
        fit(folder)
        ranks.gather(None)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_as_one(tmp_path):
    """Batches of 5 and 7, which do not split evenly: the same gradients, losses and accuracy; and both
    processes end with the same weights, to the last bit.
    """
    worked([__file__, tmp_path], OMP_NUM_THREADS="1")
    one, *two = (torch.load(tmp_path / name) for name in ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt"))
    for each in two:
        assert each["losses"] == pytest.approx(one["losses"], abs=1e-6)
        assert each["accuracy"] == one["accuracy"]
        for name, gradient in one["gradients"].items():
            assert (each["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6
        assert all(torch.equal(value, two[0]["weights"][name]) for name, value in each["weights"].items())


if __name__ == "__main__":
    for size in (1, 2):
        port = free_port()
        children = [fork(rank, size, port, Path(sys.argv[1])) for rank in range(size)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * size
