"""What a training run must remember between two updates, and how it comes back from disk bit for bit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.amp import GradScaler

from lpobench.launch import pieces, ranks
from lpobench.learning import checkpoint, tensors
from lpobench.plugin import MethodSettings, UserError
from lpobench.types import Context, Rows

Named = Callable[[], Mapping[str, Tensor]]
FORMAT = 2


@dataclass
class TrainState:
    """Where the run is. The rest of its state is in what is trained, the optimiser and the generators."""

    update: int = 0
    """Optimiser steps taken."""
    round: int = 0
    """Rounds collected."""
    empty_rounds: int = 0
    """Rounds without rows since the last one with some."""
    prompts_taken: int = 0
    round_rows: int = 0
    """Rows of the current round, trained on or not."""
    collected: int = 0
    trained: int = 0
    """Rows so far."""
    scored: int = 0
    """Groups of candidates that a reward has scored."""
    dropped: int = 0
    """Of those, the ones with a score that was nan or inf."""
    reward: float | None = None
    """Mean score of all that was scored last: in the current round, or in the last update."""
    rows_by_t: dict[str, int] = field(default_factory=dict)
    """Rows collected so far, by the timestep of their step; empty where rows are no steps."""
    seconds: dict[str, float] = field(default_factory=dict)
    work: dict[str, dict[str, int]] = field(default_factory=dict)
    """By phase: collect, update, checkpoint. The work of this process, plus that of all before a resume."""
    microbatch: int | None = None
    """Rows that go through the denoiser at a time, where train.minibatch did not fit in memory."""
    collect_passes: int = 1
    """Passes a process collects its prompts in; more than one where they did not fit in memory at once."""
    pending: Rows | None = None
    """Rows of the current round that are still to be trained on, in order: all of them in every process."""

    def of_all_processes(self) -> "TrainState":
        """This state with the work of every process. To be called by all."""
        everyones = ranks.gather(self.work)
        phases = dict.fromkeys(phase for work in everyones for phase in work)
        return replace(
            self, work={phase: added(*(work.get(phase, {}) for work in everyones)) for phase in phases}
        )


@dataclass(frozen=True)
class StateFiles:
    """Saves a TrainState with the live objects that belong to it, and puts both back."""

    root: Path
    keep: int
    fingerprint: str
    method: MethodSettings
    ctx: Context
    optimizer: torch.optim.Optimizer
    scaler: GradScaler | None

    def save(self, state: TrainState) -> None:
        """One checkpoint, named by its update, by the main process. Raises StorageError, leaving the ones before.

        To be called by all processes, whose state is the same but for the work they did.
        """
        everyones = state.of_all_processes()
        if self.ctx.policy.split:  # together; the main process then has all in one piece, beside its parts
            weights, moments = (
                {name: pieces.on_main(value) for name, value in found().items()}
                for found in (self._trained, self._moments)
            )
            ranks.from_main(lambda: self._write(everyones, lambda: weights, lambda: moments))
        else:
            ranks.from_main(lambda: self._write(everyones, self._trained, self._moments))

    def _write(self, state: TrainState, weights: Named, moments: Named) -> None:
        values = asdict(replace(state, pending=None))
        del values["pending"]
        scaler = self.scaler.state_dict() if self.scaler else None
        document = {"format": FORMAT, "fingerprint": self.fingerprint, "state": values, "scaler": scaler}
        files: dict[str, checkpoint.Content] = {
            self._weights_file(): lambda: tensors.to_bytes(weights()),
            "optimizer.safetensors": lambda: tensors.to_bytes(moments()),
            "random.safetensors": lambda: tensors.to_bytes(
                tensors.random_states(self.ctx.generator, self._device())
            ),
        }
        if state.pending is not None:
            columns, strings = tensors.split_rows(state.pending)
            document["rows"] = {"kind": tensors.kind_of(state.pending), "strings": strings}
            files["rows.safetensors"] = partial(tensors.to_bytes, columns)
        files["state.json"] = json.dumps(document).encode()
        checkpoint.save(self.root, state.update, files, self.keep)

    def restore(self) -> TrainState | None:
        """The newest state that verifies, the live objects set to it; None if there is none.

        To be called by all processes; what was done before counts as the main one's work.
        """
        folder = ranks.from_main(lambda: checkpoint.newest(self.root))
        if folder is None:
            return None
        document = json.loads((folder / "state.json").read_bytes())
        self._check(folder, document)
        self._load_trained(tensors.from_file(folder / self._weights_file()))
        moments = tensors.from_file(folder / "optimizer.safetensors")
        tensors.load_optimizer(self.optimizer, self._trained(), moments)
        tensors.load_random_states(
            tensors.from_file(folder / "random.safetensors"), self.ctx.generator, self._device()
        )
        if self.scaler:
            self.scaler.load_state_dict(document["scaler"])
        state = TrainState(**document["state"], pending=self._rows(folder, document.get("rows")))
        return state if ranks.is_main() else replace(state, work={})

    def _check(self, folder: Path, document: dict) -> None:
        if document["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {document['format']}, this version reads {FORMAT}: use --no-resume"
            )
        if document["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{folder} belongs to run {document['fingerprint']}, this is run {self.fingerprint}: "
                "choose another --out, or --no-resume"
            )

    def _rows(self, folder: Path, saved: dict | None) -> Rows | None:
        if saved is None:
            return None
        columns = tensors.from_file(folder / "rows.safetensors")
        return tensors.rows_class(saved["kind"], self.method)(**columns, **saved["strings"])

    def _weights_file(self) -> str:
        return "denoiser.safetensors" if self.ctx.policy.whole else "adapters.safetensors"

    def _trained(self) -> dict[str, Tensor]:
        return dict(zip(self._names(), self.ctx.policy.trained, strict=True))

    def _moments(self) -> dict[str, Tensor]:
        return tensors.optimizer_tensors(self.optimizer, self._names())

    @torch.no_grad()
    def _load_trained(self, saved: dict[str, Tensor]) -> None:
        for name, parameter in self._trained().items():
            parameter.copy_(pieces.like(saved[name], parameter))

    def _names(self) -> list[str]:
        return tensors.names_of(self.ctx.policy.trained, self.ctx.policy.backbone.denoiser)

    def _device(self) -> torch.device:
        return self.ctx.policy.backbone.device


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """Sums by name, in the first one's order."""
    total: dict[str, int] = {}
    for each in counts:
        for name, num in each.items():
            total[name] = total.get(name, 0) + num
    return total
