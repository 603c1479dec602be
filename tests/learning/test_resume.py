"""Stopped, crashed, out of disk, and resumed: bit for bit the run that nobody disturbed."""

import pytest
import torch
from safetensors.torch import load_file
from toy_training import Toy, make_context, read_metrics, run, untimed

from lpobench.learning import tensors
from lpobench.learning.checkpoint import StorageError
from lpobench.learning.train import Preempted
from lpobench.plugin import UserError
from lpobench.signals import StopFlag


@pytest.mark.parametrize("stop_at", range(6))
@pytest.mark.parametrize("every", [1, 4])
def test_stopped_anywhere_and_resumed_is_bitwise_the_same(tmp_path, stop_at, every):
    """Three updates a round: stops fall before, inside and between rounds."""
    straight = run(tmp_path / "straight", num_updates=7)
    stop, ctx = StopFlag(), make_context()
    loss_calls = [2, 3, 4, 6, 7, 8, 10]  # of all denoiser calls; 1, 5 and 9 are collects
    ctx.policy.on_loss = {loss_calls[stop_at]: lambda: stop.request("SIGTERM")}
    with pytest.raises(Preempted, match=f"SIGTERM: saved at update {stop_at + 1} of 7") as error:
        run(tmp_path / "run", ctx=ctx, stop=stop, num_updates=7, checkpoint_every=every)
    assert error.value.exit_code == 75

    resumed = run(tmp_path / "run", num_updates=7, checkpoint_every=every)
    assert resumed.result.resumed_from == stop_at + 1
    assert torch.equal(resumed.weight, straight.weight)
    assert untimed(resumed.lines) == untimed(straight.lines)
    for name in ("updates", "rounds", "collected", "trained", "work", "scored", "dropped"):
        assert getattr(resumed.result, name) == getattr(straight.result, name)


def test_optimiser_state_comes_back_bit_for_bit(tmp_path):
    run(tmp_path / "straight")
    run(tmp_path / "halves", num_updates=3)
    run(tmp_path / "halves")
    folders = [tmp_path / name / "checkpoints" / "step-00000006" for name in ("straight", "halves")]
    for name in ("adapters.safetensors", "optimizer.safetensors", "random.safetensors"):
        one, two = (load_file(folder / name) for folder in folders)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path)
    assert again.policy.sizes == []
    assert torch.equal(again.weight, first.weight)
    assert again.lines == first.lines


def test_metrics_have_each_update_once_after_a_crash(tmp_path):
    """Crash in update 6: the newest checkpoint is 4, update 5 is in the file already, 6 is torn."""
    ctx = make_context()

    def crash():
        raise RuntimeError("crash")

    ctx.policy.on_loss = {8: crash}  # collect, 3 updates, collect, updates 4, 5, 6
    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path / "run", ctx=ctx)
    assert len(read_metrics(tmp_path / "run")) == 5
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"update": 6, "lo')
    straight, resumed = run(tmp_path / "straight"), run(tmp_path / "run")
    assert resumed.result.resumed_from == 4
    assert untimed(resumed.lines) == untimed(straight.lines)
    assert torch.equal(resumed.weight, straight.weight)


def test_a_damaged_newest_checkpoint_costs_its_updates_only(tmp_path, capsys):
    run(tmp_path / "run", num_updates=4)
    (tmp_path / "run" / "checkpoints" / "step-00000004" / "adapters.safetensors").write_bytes(b"")
    resumed = run(tmp_path / "run")
    assert resumed.result.resumed_from == 2
    assert "step-00000004 is skipped: adapters.safetensors is not what" in capsys.readouterr().err
    assert torch.equal(resumed.weight, run(tmp_path / "straight").weight)


def test_full_disk_stops_the_run_and_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    calls = iter(range(100))

    def full(descriptor):
        if next(calls) > 8:  # a line of metrics, five files, a manifest, two folders: then it is full
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device") as error:
            run(tmp_path / "run")
    assert error.value.exit_code == 4
    names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert names == ["step-00000002"]
    resumed = run(tmp_path / "run")
    assert resumed.result.resumed_from == 2
    assert torch.equal(resumed.weight, run(tmp_path / "straight").weight)


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(tmp_path, fingerprint="toy-lpo-s0-aaaa")
    with pytest.raises(UserError, match="belongs to run toy-lpo-s0-aaaa, this is run toy-spo-s0-bbbb"):
        run(tmp_path, fingerprint="toy-spo-s0-bbbb")


def test_a_checkpoint_beyond_the_end_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match=r"is at update 6, train.num_updates is 3"):
        run(tmp_path, num_updates=3)


def test_checkpoints_hold_no_pickle(tmp_path):
    run(tmp_path, num_updates=2)
    folder = tmp_path / "checkpoints" / "step-00000002"
    suffixes = {path.name: path.suffix for path in folder.iterdir()}
    assert set(suffixes.values()) == {".safetensors", ".json"}
    assert "rows.safetensors" in suffixes  # the third update of the round is still to come
    assert list(load_file(folder / "adapters.safetensors")) == ["weight"]


@pytest.mark.parametrize("kind", ["os:environ", "subprocess:Popen", "lpobench.learning.train:TrainResult"])
def test_a_checkpoint_cannot_name_foreign_code(kind):
    with pytest.raises(ValueError, match="rows"):
        tensors.rows_class(kind, Toy())
