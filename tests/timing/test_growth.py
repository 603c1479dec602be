"""Exponents of known laws, axes that a run lacks, and the drawing."""

import pytest

from lpobench.plugin import UserError
from lpobench.records.bench import Environment, Measurement, Timing
from lpobench.report.bench import scaling_sections
from lpobench.report.growth import draw_growth
from lpobench.spec import load_spec
from lpobench.timing.scaling import changed, exponent


def test_exponents():
    values = [2, 4, 8, 16]
    assert exponent(values, [3 * value**2 for value in values]) == pytest.approx(2)
    assert exponent(values, [5.0] * 4) == pytest.approx(0)
    assert exponent([7], [1.0]) == 0


def test_an_axis_changes_one_setting():
    spec = load_spec(flags={"method": "lpo"})
    assert changed(spec, "candidates", 8).method.num_candidates == 8
    assert changed(spec, "steps", 5).sampling.num_steps == 5
    assert changed(spec, "prompts", 3).train.prompts_per_round == 3
    assert changed(spec, "resolution", 128).backbone.resolution == 128


def test_axes_that_a_run_lacks():
    with pytest.raises(UserError, match="--candidates: ddpo has no setting num_candidates"):
        changed(load_spec(flags={"method": "ddpo"}), "candidates", 4)
    with pytest.raises(UserError, match="multiple of 8, got 65"):
        changed(load_spec(), "resolution", 65)


@pytest.fixture
def grown():
    """Time grows with the square of the steps, work in proportion."""
    where = Environment(device="cpu", processor="x", cores=2, threads=1, system="", versions={}, git=None)
    timed = lambda s: Timing(median=s, low=0.9 * s, high=1.1 * s, n=3, peak_memory_bytes=2**30)
    return Measurement(
        verb="scaling",
        setup={"values": {"steps": [5, 10]}},
        environment=where,
        timings={"steps 5": timed(1.0), "steps 10": timed(4.0)},
        flops={"steps 5": 100, "steps 10": 200},
        unit_flops=10,
        numbers={"steps: exponent of time": 2.0, "steps: exponent of work": 1.0},
    )


def test_growth_faster_than_the_work_is_said(grown):
    steps, exponents = scaling_sections(grown)
    assert steps.rows[1] == ["10", "4 s", "3.6 - 4.4", "3", "1.00 GiB", "20"]
    assert exponents.rows == [["steps", "2.00", "1.00", "yes, by 1.00"]]


def test_growth_is_drawn(grown, tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        draw_growth(grown, tmp_path / f"growth{suffix}")
        assert (tmp_path / f"growth{suffix}").read_bytes().startswith(start)
