# /// script
# requires-python = "==3.11.*"
# dependencies = ["openai-clip==1.0.1", "torch", "torchvision", "numpy<2", "pillow<11", "setuptools<80"]
# ///
"""Golden CLIPScores: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_clipscore.py`.

OpenAI's package, as T2I-CompBench calls it (CLIPScore_eval/CLIP_similarity.py): plain cosines. The random weights have
the names of transformers' CLIPModel and are renamed to OpenAI's here.
"""

from pathlib import Path

import clip
import seeded
import torch
from clip.clip import _transform
from clip.model import build_model
from PIL import Image

TEXT, VISION, PATCH, PROJECTION, LAYERS = 64, 128, 32, 24, 2
LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
CONFIG = {
    "projection_dim": PROJECTION,
    "text_config": {
        "hidden_size": TEXT,
        "intermediate_size": 4 * TEXT,
        "num_attention_heads": TEXT // 64,
        "num_hidden_layers": LAYERS,
        "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": VISION,
        "intermediate_size": 4 * VISION,
        "num_attention_heads": VISION // 64,
        "num_hidden_layers": LAYERS,
        "patch_size": PATCH,
    },
}
"""Of transformers' CLIPModel; OpenAI's code reads heads of 64 and 4-fold MLPs off the weights."""


def shapes() -> dict[str, list[int]]:
    """Of transformers' CLIPModel."""
    found = {
        "text_model.embeddings.token_embedding.weight": [49408, TEXT],
        "text_model.embeddings.position_embedding.weight": [77, TEXT],
        "vision_model.embeddings.class_embedding": [VISION],
        "vision_model.embeddings.patch_embedding.weight": [VISION, 3, PATCH, PATCH],
        "vision_model.embeddings.position_embedding.weight": [(224 // PATCH) ** 2 + 1, VISION],
        "visual_projection.weight": [PROJECTION, VISION],
        "text_projection.weight": [PROJECTION, TEXT],
    }
    norms = ["text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    for tower, width in (("text_model", TEXT), ("vision_model", VISION)):
        for number in range(LAYERS):
            layer = f"{tower}.encoder.layers.{number}."
            norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
            sizes = {f"self_attn.{part}_proj": [width, width] for part in ("q", "k", "v", "out")}
            sizes |= {"mlp.fc1": [4 * width, width], "mlp.fc2": [width, 4 * width]}
            for name, size in sizes.items():
                found |= {f"{layer}{name}.weight": size, f"{layer}{name}.bias": size[:1]}
    for name in norms:
        width = [TEXT if name.startswith("text") else VISION]
        found |= {f"{name}.weight": width, f"{name}.bias": width}
    return found


def as_openai(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.zeros(()),
    }
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
        found[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
        for theirs, ours in (("", "text_model"), ("visual.", "vision_model")):
            for number in range(LAYERS):
                old, new = f"{ours}.encoder.layers.{number}.", f"{theirs}transformer.resblocks.{number}."
                joined = [state[f"{old}self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
                found[f"{new}attn.in_proj_{kind}"] = torch.cat(joined)
                found |= {f"{new}{LAYER[name]}.{kind}": state[f"{old}{name}.{kind}"] for name in LAYER}
    return found


@torch.no_grad()
def main() -> None:
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes()).items()}
    model = build_model(as_openai(state)).float().eval()  # what clip.load does, on a CPU
    preprocess = _transform(model.visual.input_resolution)
    scores = []
    for prompt in seeded.PROMPTS:
        text = model.encode_text(clip.tokenize(prompt, truncate=True))
        text = text / text.norm(dim=-1, keepdim=True)
        row = []
        for picture in seeded.pictures():
            image = model.encode_image(preprocess(Image.fromarray(picture)).unsqueeze(0))
            image = image / image.norm(dim=-1, keepdim=True)
            row.append((image @ text.T).item())
        scores.append(row)
    made_by = f"openai-clip 1.0.1, torch {torch.__version__}"
    document = {"made_by": made_by, "config": CONFIG, "shapes": shapes(), "scores": scores}
    seeded.write_golden(Path(__file__).with_name("clipscore.json"), document)


main()
