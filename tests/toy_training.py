"""A toy to train, with numbers that can be derived by hand: rows are points x, the model is w . x."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.learning.train import TrainResult, train
from lpobench.plugin import MethodSettings
from lpobench.signals import StopFlag
from lpobench.spec import TrainSettings
from lpobench.types import Context, Rows


@dataclass(frozen=True)
class Points(Rows):
    x: Float[Tensor, "n 2"]
    prompts: list[str]


class Toy(MethodSettings):
    """Loss: the mean over rows of (w . x)^2, or of w . (3, 4), whose gradient is (3, 4) for ever."""

    num_rows: int = 6
    """rows per round"""
    slope: bool = False
    """the loss with the constant gradient"""
    spoil: Literal["loss", "gradient", "always"] | None = None
    """what turns nan at the third update; or the gradient, at every update"""

    def collect(self, ctx: Context) -> Points:
        assert not torch.is_grad_enabled()
        prompts = ctx.next_prompts()
        ctx.policy.calls, ctx.policy.rows = ctx.policy.calls + 1, ctx.policy.rows + len(prompts)
        x = torch.randn(self.num_rows, 2, generator=ctx.generator)
        return Points(x, [prompts[i % len(prompts)] for i in range(self.num_rows)])

    def loss(self, ctx: Context, rows: Points) -> tuple[Tensor, dict[str, Tensor]]:
        policy = ctx.policy
        policy.seen += rows.prompts
        policy.sizes.append(len(rows))
        policy.calls, policy.rows = policy.calls + 1, policy.rows + len(rows)
        policy.on_loss.get(policy.calls, lambda: None)()
        x = torch.tensor([[3.0, 4.0]]).expand(len(rows), 2) if self.slope else rows.x
        output = policy.backbone.denoiser(x).squeeze(1)
        loss = output.mean() if self.slope else (output**2).mean()
        logs = {"size": rows.x.norm(dim=1).mean(), "noise": torch.rand(())}
        if self.spoil in ("loss", "gradient") and len(policy.sizes) == 3:
            loss = loss * torch.nan if self.spoil == "loss" else loss + (0 * output[0]).sqrt()
            logs["term"] = torch.tensor(torch.inf)
        if self.spoil == "always":
            loss = loss + (0 * output[0]).sqrt()
        return loss, logs


@dataclass
class ToyPolicy:
    """As much of a Policy as the loop looks at, and what went through it."""

    backbone: SimpleNamespace
    trained: list[nn.Parameter]
    whole: bool = False
    split: bool = False
    calls: int = 0
    rows: int = 0
    shard: tuple[int, int] = (0, 1)
    seen: list[str] = field(default_factory=list)
    """prompts of the rows, in the order trained on"""
    sizes: list[int] = field(default_factory=list)
    """rows of each loss"""
    on_loss: dict[int, Callable[[], None]] = field(default_factory=dict)
    """what to do in a loss, by `calls`, which count collects too"""

    @property
    def work(self) -> dict[str, int]:
        return {"calls": self.calls, "rows": self.rows}

    def rollout(self):
        return nullcontext()

    def ready_for_backward(self, loss):
        return loss


def make_context() -> Context:
    denoiser = nn.Linear(2, 1)
    with torch.no_grad():
        denoiser.weight.copy_(torch.tensor([[0.5, -0.25]]))
    denoiser.bias.requires_grad_(False).zero_()
    backbone = SimpleNamespace(device=torch.device("cpu"), denoiser=denoiser)
    return Context(ToyPolicy(backbone, [denoiser.weight]), torch.Generator())


def settings(**changes) -> TrainSettings:
    defaults = {"num_updates": 6, "prompts_per_round": 4, "minibatch": 2, "learning_rate": 0.01}
    return TrainSettings(**{**defaults, "checkpoint_every": 2, **changes})


@dataclass
class Outcome:
    result: TrainResult
    policy: ToyPolicy
    lines: list[dict]

    @property
    def weight(self) -> Tensor:
        return self.policy.trained[0].detach()


def run(folder, method=None, ctx=None, *, seed=0, fingerprint="toy", stop=None, **changes) -> Outcome:
    """Six updates unless told otherwise: rounds of 6 rows, updates of 2, a checkpoint every second one."""
    ctx = ctx or make_context()
    prompts = [f"prompt {i}" for i in range(6)]
    result = train(
        method or Toy(),
        ctx,
        settings(**changes),
        folder,
        seed=seed,
        prompts=prompts,
        stop=stop or StopFlag(),
        fingerprint=fingerprint,
        progress=False,
    )
    return Outcome(result, ctx.policy, read_metrics(folder))


def read_metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
