"""The benchmark suite: `pytest tests/benchmarks --benchmark-only`, off in every other run.

    --benchmark-json FILE     what `lpobench bench --compare OLD.json --with NEW.json` reads
    --bench-backbone NAME     another backbone than tiny-sd15, at its true size with random weights
    --bench-set KEY=VALUE     a setting of the run whose parts are timed, such as backbone.resolution=128; repeatable

Every timing keeps lpobench.timing's contract: warm-up until stable, 20 rounds or 10 s, each round waited for.
"""

import pytest

from lpobench.cli.bench_options import timed_spec
from lpobench.timing.environment import Watch
from lpobench.timing.stopwatch import (
    LEAST,
    Effort,
    forget_peak,
    peak_memory,
    seconds_of,
    warm_up,
)
from lpobench.timing.workload import workload

EMBEDDED = "tiny-sd15"
SMALL = ("train.prompts_per_round=2", "train.minibatch=4")


def pytest_addoption(parser):
    parser.addoption("--bench-backbone", default=EMBEDDED, help="backbone that is timed, with random weights")
    parser.addoption("--bench-set", action="append", default=[], help="KEY=VALUE of the run that is timed")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """One process: timings that share the machine with each other say nothing."""
    if config.getoption("benchmark_only"):
        config.option.numprocesses, config.option.dist, config.option.tx = 0, "no", []


def pytest_collection_modifyitems(config, items):
    if config.getoption("--benchmark-only"):
        return
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="timings are taken with --benchmark-only"))


@pytest.fixture(scope="session")
def load(request):
    """LPO on the backbone that is timed."""
    name = request.config.getoption("--bench-backbone")
    overrides = [*SMALL, *request.config.getoption("--bench-set")]
    spec = timed_spec(None, name, "lpo", None, overrides, random=name != EMBEDDED)
    with workload(spec) as made:
        yield made


@pytest.fixture
def timed(benchmark, load):
    """`timed(action)`: as the contract says, with what is needed to judge it."""
    device = load.device

    def run(action):
        watch, effort = Watch(device, allow_busy=True), Effort()
        forget_peak(device)
        rounds, stable = warm_up(action, device, effort)
        once = max(seconds_of(action, device), 1e-6)
        number = max(LEAST, min(effort.rounds, int(effort.seconds / once)))
        benchmark.pedantic(action, rounds=number, iterations=1)
        benchmark.extra_info.update(
            warmup=rounds,
            stable=stable,
            peak_memory_bytes=peak_memory(device),
            setup=load.setup(),
            environment=watch.environment().model_dump(mode="json"),
        )

    return run
