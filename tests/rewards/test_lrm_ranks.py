"""LRM training by two processes gives what one gives."""

import multiprocessing
import os
import socket

import pytest
import tiny_unet
import torch

from lpobench.launch import ranks
from rewards.lrm import LRMTraining
from rewards.lrm.fit import RewardTraining
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
    run = RewardTraining(model, backbone.schedule, pairs, held_out, TRAINING, 0, torch.float32)
    run._gradients(torch.arange(5), torch.Generator().manual_seed(0))
    gradients = {name: parameter.grad.clone() for name, parameter in model.trainable().items()}
    model.zero_grad()
    losses, measured = [], run._gradients
    run._gradients = lambda rows, generator: losses.append(measured(rows, generator)) or losses[-1]
    best = run.fit(on_best=lambda: None)
    outcome = {"losses": losses, "accuracy": float(best.accuracy), "weights": best.weights}
    outcome |= {"gradients": gradients}
    torch.save(outcome, folder / f"{ranks.rank()}-of-{ranks.world()}.pt")


def process(rank: int, port: int, folder) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    ranks.start(torch.device("cpu"))
    fit(folder)
    ranks.gather(None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forked: imports are not paid for again
def test_two_processes_train_as_one(tmp_path):
    """Batches of 5 and 7, which do not split evenly: the same gradients, losses and accuracy; and both
    processes end with the same weights, to the last bit.
    """
    fit(tmp_path)
    context, port = multiprocessing.get_context("fork"), free_port()
    children = [context.Process(target=process, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    one, *two = (torch.load(tmp_path / name) for name in ("0-of-1.pt", "0-of-2.pt", "1-of-2.pt"))
    for each in two:
        assert each["losses"] == pytest.approx(one["losses"], abs=1e-6)
        assert each["accuracy"] == one["accuracy"]
        for name, gradient in one["gradients"].items():
            assert (each["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6
        assert all(torch.equal(value, two[0]["weights"][name]) for name, value in each["weights"].items())
