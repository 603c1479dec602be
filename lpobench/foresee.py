"""`lpobench reward foresee`: rewards where methods use them, on the candidates of a sampling step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from lpobench.appraise import SMALLER, SUMMARY, describe, load, records
from lpobench.data.prompts import load_prompts
from lpobench.evaluation.scorers import Scorer
from lpobench.launch import memory
from lpobench.plugin import RewardSettings
from lpobench.prepare import LESS, device_of, dtype_of
from lpobench.progress import progress
from lpobench.records.record import write_atomic
from lpobench.report.drawing import file_name
from lpobench.report.foresight import foresight_chart
from lpobench.scoring.foresight import chosen_steps, foresight, look_ahead
from lpobench.spec import RunSpec

TABLE, CHART = "foresight.csv", "foresight"


def foresee(
    spec: RunSpec,
    rewards: Mapping[str, RewardSettings],
    scorers: Sequence[Scorer],
    out: Path,
    *,
    num_prompts: int = 100,
    num_candidates: int = 4,
    every: int = 3,
    seed: int = 0,
    batch_size: int = 16,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Look at the candidates of some of a rollout's steps, and write foresight.csv, a chart of each metric, and last
    summary.json, which is returned, into `out`. The prompts are those of the evaluation. Raises UserError.
    """
    prompts = [p.text for p in load_prompts(spec.eval.prompts, "eval", num_prompts, spec.eval.seed)]
    with ExitStack() as stack:
        with memory.explained("loading the models", LESS):
            backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
            policy, live = load(spec, rewards, backbone)
            steps = chosen_steps(policy, every)
            judges = {scorer.label: stack.enter_context(scorer.live(device_of(spec))) for scorer in scorers}
        with (
            progress(len(prompts) * len(steps), "forks") as advance,
            memory.explained("looking ahead", SMALLER),
        ):
            candidates = look_ahead(
                live,
                judges,
                policy,
                prompts,
                steps,
                num_candidates=num_candidates,
                seed=seed,
                batch_size=batch_size,
                advance=advance,
            )
    found = foresight(candidates, policy)
    document = {
        **describe(spec, rewards),
        "evaluators": {scorer.label: scorer.version for scorer in scorers},
        "prompts": len(prompts),
        "distinct_prompts": len(set(prompts)),
        "num_candidates": num_candidates,
        "seed": seed,
        "foresight": records(found),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / TABLE, found.to_csv(index=False, lineterminator="\n"))
    note = f"{len(prompts)} prompts, {num_candidates} candidates, {document['backbone']}"
    for metric, rows in found.groupby("metric", sort=False):
        foresight_chart(str(metric), rows, note).save(out, f"{CHART}-{file_name(str(metric))}")
    write_atomic(out / SUMMARY, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document, found
