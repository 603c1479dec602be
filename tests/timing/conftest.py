"""One small workload for the tests of this folder: LPO on tiny-sd15, two prompts a round, four rows an update."""

import pytest

from lpobench.spec import load_spec
from lpobench.timing.workload import workload

SMALL = (
    "train.prompts_per_round=2",
    "train.minibatch=4",
    "lora.rank=2",
    "sampling.num_steps=6",
    "method.timestep_range=[0, 700]",
)


@pytest.fixture(scope="session")
def spec():
    return load_spec(flags={"backbone": "tiny-sd15", "method": "lpo"}, overrides=SMALL)


@pytest.fixture(scope="session")
def load(spec):
    with workload(spec) as made:
        yield made
