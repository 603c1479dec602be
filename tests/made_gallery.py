"""Finished runs with pictures, written by hand: what a gallery is made of."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from made import paired, protocol, record
from PIL import Image

from lpobench.records import pictures
from lpobench.records.record import RunRecord

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'
PROMPTS = {"p0": ("a red circle", "colors"), "p1": (HOSTILE, "colors"), "p2": ("two stars", "counting")}
EVAL = {"num_steps": 20, "guidance_scale": 5.0, "seed": 7, "images_per_prompt": 1, "num_prompts": 600}
BASE = "f" * 32
SCORES = {"none": (0.50, 0.50, 0.50), "lpo": (0.60, 0.40, 0.55), "sft": (0.40, 0.90, 0.50)}
"""Of each prompt, by variant; light is twice that, and is better when it is low."""


def png(seed: int, side: int = 8) -> bytes:
    """Noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def keep(folder: Path, images: Mapping[str, bytes]) -> None:
    """The first image of each prompt, by id, with a manifest."""
    (folder / pictures.IMAGES).mkdir(parents=True)
    (folder / pictures.MANIFEST).mkdir()
    lines = []
    for prompt_id, data in images.items():
        pictures.path_of(folder, (prompt_id, 0)).write_bytes(data)
        line = {"prompt_id": prompt_id, "image": 0, "sha256": hashlib.sha256(data).hexdigest()}
        lines.append(json.dumps(line) + "\n")
    (folder / pictures.MANIFEST / "a.jsonl").write_text("".join(lines))


def keep_base(root: Path, prompts: Mapping[str, tuple[str, str]] = PROMPTS, side: int = 8, **about) -> Path:
    """The pictures of the untouched base, and what they are of."""
    folder = root / pictures.CACHE / "base-0123"
    keep(folder, {prompt_id: png(place, side) for place, prompt_id in enumerate(prompts)})
    settings = {name: value for name, value in EVAL.items() if name != "num_prompts"}
    told = {"backbone": "tiny-sd15", "base": BASE, "prompts_sha256": "0" * 64, "settings": settings}
    (folder / pictures.ABOUT).write_text(json.dumps(told | about))
    return folder


def run(
    root: Path,
    method: str = "lpo",
    seed: int = 0,
    prompts: Mapping[str, tuple[str, str]] = PROMPTS,
    side: int = 8,
    **changes,
) -> RunRecord:
    """A finished run, with its pictures."""
    name = f"tiny-sd15-{method}-s{seed}-0123abcd"
    folder = root / name
    keep(
        folder / pictures.EVALUATION,
        {p: png(100 * (seed + 1) + place, side) for place, p in enumerate(prompts)},
    )
    tables = [table(variant, prompts) for variant in ("none", method)]
    pd.concat(tables).to_csv(folder / "scores.csv", index=False)
    spec = {"method": {"name": method}, "eval": EVAL, "seed": seed, "device": "auto"}
    metrics = {"correct": paired(), "light": paired(-0.1, higher_is_better=False)}
    values = {"id": name, "method": method, "seed": seed, "spec": spec, "metrics": metrics, "groups": {}}
    values |= {"reused": (), "check": None, "protocol": protocol(num_prompts=len(prompts))}
    return record(**values | changes).write(folder)


def table(variant: str, prompts: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    texts, tasks = zip(*prompts.values(), strict=True)
    scores = np.resize(SCORES[variant], len(prompts))
    labels = {"variant": variant, "prompt_id": list(prompts), "image": 0, "prompt": texts, "task": tasks}
    return pd.DataFrame({**labels, "correct": scores, "light": 2 * scores})


def many(number: int) -> dict[str, tuple[str, str]]:
    """So many prompts of two tasks: three quarters are of the first."""
    return {f"p{place:03}": (f"prompt {place}", "ab"[place % 4 == 3]) for place in range(number)}
