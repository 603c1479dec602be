"""Who else uses the machine, and what a known GPU can do."""

import pytest
import torch

from lpobench.plugin import UserError
from lpobench.timing import environment, peaks
from lpobench.timing.environment import Watch
from lpobench.timing.peaks import peak_flops

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def gpu(utilisation: str, memory: str) -> dict[str, str]:
    return {"utilisation, %": utilisation, "memory in use, MiB": memory, "driver": "1"}


def test_share_of_others():
    """10 s on 2 cores: 12 s of work in all, 5 of them ours, leave 7 of 20 to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment.os, "cpu_count", lambda: 2)
        assert environment._others((0, 100, 50), (10, 112, 55)) == pytest.approx(0.35)
        assert environment._others((0, 100, 50), (10, 105, 56)) == 0


def test_a_busy_machine_is_marked(monkeypatch):
    monkeypatch.setattr(environment, "_others", lambda began, now: 0.11)
    found = Watch(CPU).environment()
    assert (found.busy, found.others, found.gpu) == (True, 0.11, {})
    assert found.device.startswith("cpu")
    assert found.threads == torch.get_num_threads()
    assert found.versions["torch"]
    monkeypatch.setattr(environment, "_others", lambda began, now: 0.02)
    assert not Watch(CPU).environment().busy


@pytest.mark.parametrize("state", [gpu("97", "0"), gpu("0", "20000")])
def test_a_busy_gpu_is_refused_or_marked(monkeypatch, state):
    monkeypatch.setattr(environment, "_gpu", lambda device: state)
    with pytest.raises(UserError, match=r"the GPU is busy .* --allow-busy"):
        Watch(CPU)
    monkeypatch.setattr(environment, "_others", lambda began, now: 0.0)
    assert Watch(CPU, allow_busy=True).environment().busy


@pytest.mark.parametrize("state", [gpu("2", "600"), gpu("[N/A]", "[N/A]"), {}])
def test_an_idle_or_silent_gpu_is_used(monkeypatch, state):
    monkeypatch.setattr(environment, "_gpu", lambda device: state)
    monkeypatch.setattr(environment, "_others", lambda began, now: 0.0)
    assert not Watch(CPU).environment().busy


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 PCIe", "fp16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5e12),
        ("Tesla T4", "bf16", None),
        ("Some GPU", "fp16", None),
    ],
)
def test_peaks(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(peaks, "rounds_to_tf32", lambda: ())
    assert peak_flops(GPU, precision) == peak
    assert peak_flops(CPU, precision) is None


def test_tf32_is_another_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(peaks, "rounds_to_tf32", lambda: ("convolutions",))
    assert peak_flops(GPU, "fp32") == 156e12
    assert peak_flops(GPU, "bf16") == 312e12
