"""A process's share of a round and of an update, in as many passes as its memory asks for.

Neither the number of processes nor the passes change what is trained on: prompts and random numbers are the
whole round's, rows come back in the order of one process, and gradients are sums over all rows of an update.

At start-up a share that does not fit in memory is halved, by all processes together, and it stays so. What
fitted before and does not any more is no matter of size: that is an error. Nor is it halved where weights are split
over the processes: the others are in the middle of the pass that one had no memory for.
"""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from lpobench.launch import memory, ranks
from lpobench.learning import tensors
from lpobench.learning.batches import Cursor, largest_part, parts
from lpobench.learning.preference import NonFiniteScore
from lpobench.learning.state import TrainState
from lpobench.plugin import MethodSettings
from lpobench.spec import TrainSettings
from lpobench.types import Context, Rows

LESS = "train.gradient_checkpointing, a lower train.precision or a smaller backbone.resolution needs less"
AGAIN = (
    "as much fitted before, so look for another program on the device, or set "
    "PYTORCH_ALLOC_CONF=expandable_segments:True; the same command goes on from the newest checkpoint"
)
SPLIT = f"processes with split weights do not halve what each does: lower train.prompts_per_round or minibatch; {LESS}"


@dataclass
class Shares:
    """What collecting and differentiating needs, and what has fitted since this process started."""

    method: MethodSettings
    ctx: Context
    settings: TrainSettings
    cursor: Cursor
    accelerator: Accelerator
    optimizer: AcceleratedOptimizer
    fitted_passes: int | None = None
    """`collect_passes` of a round that fitted."""
    fitted_rows: int = 0
    """Most rows that fitted at a time."""

    def round(self, state: TrainState) -> Rows:
        """The rows of all processes, complete. Raises NonFiniteScore where no group's scores were finite."""
        start, random = self.cursor.taken, self._random()
        doing = f"collecting round {state.round + 1}"
        if self.ctx.policy.split or self.fitted_passes == state.collect_passes:
            with memory.explained(doing, self._advice()):
                mine = self._collect(state, start, random)
        else:
            mine = memory.fitted(
                lambda: self._collect(state, start, random), lambda: self._more_passes(state, doing)
            )
            self.fitted_passes = state.collect_passes
        self._count(state, f"round {state.round + 1}")
        merge = type(mine[0]).merge
        if ranks.world() == 1:
            return self.method.complete(merge(mine))
        shares = ranks.gather([rows.to(torch.device("cpu")) for rows in mine])
        merged = merge([rows for share in shares for rows in share])
        return self.method.complete(merged.to(self.ctx.policy.backbone.device))

    def gradients(self, state: TrainState, num: int) -> dict[str, Tensor]:
        """Gradient of the mean loss over the next `num` rows, summed over the processes.

        Returns this process's part of the means that are logged: nothing, if it has no rows.
        """
        mine = state.pending.take(torch.arange(num)[ranks.share(num)])
        doing = f"in update {state.update + 1}"
        if self.ctx.policy.split or self._rows_at_a_time(state, num) <= self.fitted_rows:
            with memory.explained(doing, self._advice()):
                means = self._backward(state, mine, num)
        else:
            means = memory.fitted(
                lambda: self._backward(state, mine, num), lambda: self._smaller_parts(state, num, doing)
            )
            self.fitted_rows = self._rows_at_a_time(state, num)
        self._count(state, f"update {state.update + 1}")
        if not self.ctx.policy.split:  # those of split weights are sums already
            ranks.sum_gradients(self.ctx.policy.trained)
        return means

    @torch.no_grad()
    def _collect(self, state: TrainState, start: int, random: dict[str, Tensor]) -> list[Rows]:
        """This process's part of a round, pass by pass, each with the round's prompts and random numbers."""
        passes, prompts, rows = state.collect_passes, range(self.settings.prompts_per_round), []
        self.ctx.round, self.ctx.verdicts, self.ctx.mean_scores = state.round, [], []
        for number in range(passes):
            shard = ranks.rank() * passes + number, ranks.world() * passes
            if not prompts[ranks.part(len(prompts), *shard)]:
                continue
            self.ctx.policy.shard, self.cursor.taken = shard, start
            tensors.load_random_states(random, self.ctx.generator, self.ctx.policy.backbone.device)
            with self.accelerator.autocast(), self.ctx.policy.rollout():
                rows.append(self.method.collect(self.ctx))
        return rows

    def _count(self, state: TrainState, when: str) -> None:
        """Take down the groups that were scored and their mean, and say so where scores were not finite."""
        verdicts, means = (
            torch.cat(each or [torch.ones(0)]) for each in (self.ctx.verdicts, self.ctx.mean_scores)
        )
        finite = means[verdicts.bool()]
        counts = ranks.gather((len(verdicts), len(verdicts) - len(finite), finite.double().sum().item()))
        scored, dropped, total = (sum(each) for each in zip(*counts, strict=True))
        state.scored, state.dropped = state.scored + scored, state.dropped + dropped
        if scored > dropped:
            state.reward = total / (scored - dropped)
        if dropped and dropped == scored:
            raise NonFiniteScore(
                f"{when}: the reward returned nan or inf for every prompt; nothing was trained on them"
            )
        if dropped:
            ranks.say(f"{when}: {dropped} of {scored} groups had nan or inf scores and were dropped")

    def _more_passes(self, state: TrainState, doing: str) -> None:
        """Halve the prompts of a pass."""
        passes, prompts = state.collect_passes, -(-self.settings.prompts_per_round // ranks.world())
        if passes == prompts:
            raise memory.OutOfMemory(f"out of memory {doing} with one prompt at a time; {LESS}")
        state.collect_passes = min(2 * passes, prompts)
        ranks.say(f"out of memory {doing}: it is collected in {state.collect_passes} passes, not in {passes}")

    def _backward(self, state: TrainState, rows: Rows, num: int) -> dict[str, Tensor]:
        """Add the gradient of these rows' part of the mean over `num`; their part of the logged means."""
        self.ctx.verdicts, self.ctx.mean_scores = [], []
        means: dict[str, Tensor] = {}
        for part, share in parts(rows, self._microbatch(state), num):
            with self.accelerator.autocast():
                loss, logs = self.method.loss(self.ctx, part.to(self.ctx.policy.backbone.device))
            self.accelerator.backward(self.ctx.policy.ready_for_backward(share * loss))
            for name, value in {"loss": loss, **logs}.items():
                means[name] = means.get(name, 0) + share * value.detach().float()
        return means

    def _smaller_parts(self, state: TrainState, num: int, doing: str) -> None:
        """Halve the rows that go through the denoiser at a time."""
        self.optimizer.zero_grad()
        rows = self._rows_at_a_time(state, num)
        if rows == 1:
            raise memory.OutOfMemory(f"out of memory {doing} with one row at a time; {LESS}")
        state.microbatch = (rows + 1) // 2
        ranks.say(
            f"out of memory {doing}: its {num} rows are taken in parts of {state.microbatch}, not of {rows}"
        )

    def _rows_at_a_time(self, state: TrainState, num: int) -> int:
        """Of an update of `num` rows, in the process that has most of them."""
        return largest_part(-(-num // ranks.world()), self._microbatch(state))

    def _microbatch(self, state: TrainState) -> int:
        return state.microbatch or self.settings.minibatch

    def _advice(self) -> str:
        return SPLIT if self.ctx.policy.split else AGAIN

    def _random(self) -> dict[str, Tensor]:
        return tensors.random_states(self.ctx.generator, self.ctx.policy.backbone.device)
