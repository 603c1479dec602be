"""Out of memory: what is halved, what stays the same, and the one line where nothing is left to halve."""

import platform

import pandas as pd
import pytest
import torch
from made import Meter, register_toys, toy_spec
from processes import worked
from toy_training import Toy, make_context, run, untimed

import lpobench.scoring.generate
from lpobench.launch import memory
from lpobench.launch.memory import OutOfMemory
from lpobench.run import execute
from lpobench.scoring.evaluate import score_images
from lpobench.types import Prompt


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Small(Toy):
    """A device on which `room` rows of a loss fit, and `places` prompts of a collect."""

    room: int = 8
    places: int = 8
    later: int | None = None
    """the loss that finds less room than the ones before"""

    def collect(self, ctx):
        index, count = ctx.policy.shard
        rows = super().collect(ctx)
        if 4 // count > self.places:
            raise full()
        return rows.take(torch.arange(len(rows)).tensor_split(count)[index])

    def loss(self, ctx, rows):
        policy = ctx.policy
        loss, logs = super().loss(ctx, rows)
        if len(rows) > self.room or len(policy.sizes) == self.later:
            raise full()
        return loss, {"size": logs["size"]}  # `noise` is another for every part


@pytest.fixture
def whole(tmp_path):
    """The run that has memory: rounds of 6 rows, updates of 6."""
    return run(tmp_path / "whole", Small(), minibatch=6)


@pytest.mark.parametrize(("room", "sizes"), [(3, [6, 3, 3]), (2, [6, 3, 2, 2, 2]), (1, [6, 3, 2] + [1] * 6)])
def test_parts_are_halved_at_the_first_update_and_the_update_stays(tmp_path, whole, room, sizes, capsys):
    small = run(tmp_path / "small", Small(room=room), minibatch=6)
    assert small.policy.sizes[: len(sizes)] == sizes
    assert max(small.policy.sizes[len(sizes) :]) <= room
    assert small.result.microbatch == room
    assert whole.result.microbatch is None
    torch.testing.assert_close(small.weight, whole.weight, rtol=1e-6, atol=1e-7)
    for one, two in zip(small.lines, whole.lines, strict=True):
        assert one == pytest.approx({**two, "seconds": one["seconds"]}, rel=1e-5)
    said = capsys.readouterr().err
    assert "out of memory in update 1: its 6 rows are taken in parts of 3, not of 6" in said


def test_rounds_are_collected_in_passes(tmp_path, whole, capsys):
    """Four prompts, room for one: two passes, then four; the rows are bit for bit the same."""
    small = run(tmp_path / "small", Small(places=1), minibatch=6)
    assert small.result.collect_passes == 4
    assert torch.equal(small.weight, whole.weight)
    assert untimed(small.lines) == untimed(whole.lines)
    assert capsys.readouterr().err.count("out of memory collecting round 1") == 2


def test_a_resumed_run_remembers(tmp_path):
    run(tmp_path, Small(room=2, places=2), minibatch=6, num_updates=2)
    again = run(tmp_path, Small(room=2, places=2), minibatch=6, num_updates=4)
    assert max(again.policy.sizes) == 2
    assert (again.result.microbatch, again.result.collect_passes) == (2, 2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Small(room=0), "out of memory in update 1 with one row at a time; train.gradient_checkpointing"),
        (Small(places=0), "out of memory collecting round 1 with one prompt at a time; "),
        (Small(later=3), "out of memory in update 3; as much fitted before"),
    ],
)
def test_where_nothing_is_left_to_halve(tmp_path, method, message):
    with pytest.raises(OutOfMemory, match=message) as error:
        run(tmp_path, method, minibatch=6)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)


def test_an_update_larger_than_all_before_may_still_be_halved(tmp_path):
    """Updates of 4 and 2 rows of a round of 6: the first has parts of 4, which fit; then there is no first."""
    outcome = run(tmp_path, Small(room=4), minibatch=4)
    assert outcome.policy.sizes == [4, 2] * 3
    assert outcome.result.microbatch is None


def test_other_errors_are_not_memory(tmp_path):
    class Wrong(Toy):
        def loss(self, policy, rows):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tmp_path, Wrong(), ctx=make_context())


@pytest.mark.parametrize(
    ("error", "memory_is_short"),
    [
        (full(), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("CUDNN_STATUS_NOT_SUPPORTED"), False),
        (ValueError("no"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, memory_is_short):
    assert memory.is_out_of_memory(error) == memory_is_short


@pytest.fixture
def room_for_two(monkeypatch):
    """Images are made two at a time at most; yields the batches that were tried."""
    made, tried = lpobench.scoring.generate._images, []

    def small(policy, prompts, *rest, **options):
        tried.append(len(prompts))
        if len(prompts) > 2:
            raise full()
        return made(policy, prompts, *rest, **options)

    return lambda: monkeypatch.setattr(lpobench.scoring.generate, "_images", small) or tried


def test_batches_of_images_are_halved_and_recorded(monkeypatch, tmp_path, room_for_two, capsys):
    """Six images, five at a time and then one: 5 and 3 do not fit, so 2, 2, 1 and 1; the scores are the same."""
    register_toys(monkeypatch)
    spec = toy_spec(tmp_path, method={"name": "none"}, reward=None, eval={"batch_size": 5})
    whole = execute(spec, tmp_path / "whole")
    tried = room_for_two()
    small = execute(spec, tmp_path / "small")
    assert tried[-6:] == [5, 3, 2, 2, 1, 1]
    assert (whole.image_batch, small.image_batch) == (None, 2)
    assert small.metrics == whole.metrics
    assert "out of memory making images of none: 2 at a time from here on" in capsys.readouterr().err


def test_images_are_scored_in_halves():
    class Narrow(Meter):
        def score(self, images, prompts):
            if len(images) > 2:
                raise full()
            return super().score(images, prompts)

    prompts = [Prompt(str(i), str(i)) for i in range(5)]
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    tables = [score_images("meter", cls(), images, prompts) for cls in (Meter, Narrow)]
    pd.testing.assert_frame_equal(*tables)


def test_one_image_that_does_not_fit_is_one_line(monkeypatch, tmp_path):
    made = lpobench.scoring.generate._images

    def never(policy, prompts, starts, settings, reference, sampler):
        if reference:
            raise full()
        return made(policy, prompts, starts, settings, reference, sampler)  # the fingerprint

    register_toys(monkeypatch)
    monkeypatch.setattr(lpobench.scoring.generate, "_images", never)
    spec = toy_spec(tmp_path, method={"name": "none"}, reward=None)
    with pytest.raises(OutOfMemory, match="out of memory scoring none, one image at a time; a lower"):
        execute(spec, tmp_path / "runs")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_glibc_is_told_to_keep_memory_unless_the_environment_has_chosen():
    asked = "from lpobench.launch import memory; print(memory.keep_freed())"
    nothing_chosen = dict.fromkeys(memory.CHOSEN)
    assert worked(["-c", asked], **nothing_chosen) == "True\n"
    assert worked(["-c", asked], **{**nothing_chosen, "MALLOC_TRIM_THRESHOLD_": "100000"}) == "False\n"
