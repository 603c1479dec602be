"""What GenEval's tests judge: random detections in images, and a small random CLIP under the names of two libraries.

NumPy and torch only, so that the official tool's old environment can import it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seeded
import torch

HEIGHT, WIDTH = 48, 64
SCORES = (0.05, 0.29, 0.3, 0.3000001, 0.31, 0.6, 0.89, 0.9, 0.9000001, 0.95, 0.99)
"""Above which a detection counts: 0.3, and 0.9 for counting."""
Object = tuple[int, float, tuple[int, int, int, int], str]
"""Class, score, box, colour."""


def case(demands: Mapping[str, Any], names: Sequence[str], colours: Sequence[str], seed: int) -> list[Object]:
    """Objects of the prompt's classes, about as many as it wants, and of others. No two of a case have one score, nor
    two of a class one box.
    """
    random = np.random.RandomState(seed)
    found: dict[tuple[int, tuple[int, ...]], tuple[float, str]] = {}
    wanted = [(entry["class"], entry["count"], entry.get("color")) for entry in demands["include"]]
    for name, count, colour in [*wanted, (names[random.randint(len(names))], 0, None)]:
        more = random.choice([-1, 0, 1, 2, 17], p=[0.1, 0.6, 0.15, 0.1, 0.05])
        for _ in range(max(0, count + more)):
            seen = colour if colour and random.rand() < 0.7 else colours[random.randint(len(colours))]
            score = _score(random, demands["tag"])
            found.setdefault((names.index(name), _box(random)), (score, seen))
    order = random.permutation(len(found))
    return [
        (label, float(np.float32(score + 1e-6 * place)), box, colour)
        for place, ((label, box), (score, colour)) in zip(order, found.items(), strict=True)
    ]


def _score(random: np.random.RandomState, task: str) -> float:
    likely = SCORES[7:] if task == "counting" else SCORES[3:]
    return float(random.choice(likely if random.rand() < 0.9 else SCORES))


def _box(random: np.random.RandomState) -> tuple[int, int, int, int]:
    """Often small, sometimes on one of few places, so that centres and edges meet."""
    if random.rand() < 0.3:
        x, y = 16 * random.randint(3), 12 * random.randint(3)
        return x, y, x + 16, y + 12
    (x0, x1), (y0, y1) = (np.sort(random.choice(side, 2, replace=False)) for side in (WIDTH, HEIGHT))
    return int(x0), int(y0), int(x1), int(y1)


def mask(box: tuple[int, int, int, int]) -> np.ndarray:
    """All of the box but a part of its first row."""
    x0, y0, x1, y1 = box
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[y0:y1, x0:x1] = True
    found[y0, x0 : (x0 + x1) // 2] = False
    return found


REPEATS = 3
"""Cases of each prompt."""
COLOURED = [
    ("hot dog", (3, 5, 40, 44)),
    ("tv", (0, 0, 64, 48)),
    ("computer keyboard", (10, 10, 11, 20)),
    ("zebra", (50, 2, 64, 9)),
    ("tv", (20, 30, 33, 31)),
    ("orange", (31, 7, 62, 48)),
]
"""Classes and boxes whose colours are asked for, each in a picture of its own."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's."""

CLIP = {
    "projection_dim": 32,
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
    },
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "patch_size": 56,
    },
}
"""Of transformers' CLIPConfig, the rest as in ViT-L/14: QuickGELU, 224 pixels, OpenAI's tokens."""
PARTS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""transformers' names in OpenAI's and open_clip's; what is stacked or turned there is not listed."""


def clip_shapes() -> dict[str, list[int]]:
    """By transformers' names."""
    found = {
        "text_model.embeddings.token_embedding.weight": [49408, 64],
        "text_model.embeddings.position_embedding.weight": [77, 64],
        "vision_model.embeddings.class_embedding": [64],
        "vision_model.embeddings.patch_embedding.weight": [64, 3, 56, 56],
        "vision_model.embeddings.position_embedding.weight": [17, 64],
        "visual_projection.weight": [32, 64],
        "text_projection.weight": [32, 64],
    }
    norms = ["text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for layer in (
        f"{tower}_model.encoder.layers.{number}" for tower in ("text", "vision") for number in (0, 1)
    ):
        norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
        sizes = {f"self_attn.{part}_proj": [64, 64] for part in ("q", "k", "v", "out")}
        for name, size in {**sizes, "mlp.fc1": [256, 64], "mlp.fc2": [64, 256]}.items():
            found |= {f"{layer}.{name}.weight": size, f"{layer}.{name}.bias": size[:1]}
    return found | {f"{name}.{kind}": [64] for name in norms for kind in ("weight", "bias")}


def clip_weights() -> dict[str, torch.Tensor]:
    """By transformers' names."""
    made = {name: torch.from_numpy(value) for name, value in seeded.weights(clip_shapes()).items()}
    made["text_model.embeddings.token_embedding.weight"] *= 3  # words decide more than their order
    return made


def as_open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights by open_clip's names."""
    found = {"logit_scale": torch.zeros(())}
    for name, value in weights.items():
        if name.endswith("_projection.weight"):
            found["text_projection" if name.startswith("text") else "visual.proj"] = value.T
        elif ".self_attn.q_proj." in name:
            stacked = torch.cat([weights[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            found[_open_clip_name(name).replace("self_attn.q_proj.", "attn.in_proj_")] = stacked
        elif "_proj." not in name or ".out_proj." in name or ".mlp." in name:
            found[_open_clip_name(name)] = value
    return found


def _open_clip_name(name: str) -> str:
    for theirs, ours in PARTS.items():
        name = name.replace(theirs, ours)
    return name


def picture(seed: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8."""
    return seeded.picture(WIDTH, HEIGHT, seed)


def golden_text(document: Mapping[str, Any]) -> str:
    """JSON, a line per key."""
    return (
        "{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in document.items())
        + "\n}\n"
    )
