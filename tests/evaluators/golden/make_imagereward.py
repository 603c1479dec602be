# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "image-reward==1.5", "transformers==4.27.4", "tokenizers==0.13.3", "timm==0.6.13", "fairscale==0.4.13", "torch",
#     "torchvision", "numpy<2", "pillow<11",
# ]
# ///
"""Golden ImageRewards: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_imagereward.py`.

ImageReward.score of image-reward 1.5 with a smaller vision tower, BERT and vocabulary. The package's __init__, which
needs diffusers, datasets and OpenAI's clip for other things, is stepped around.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import seeded
import torch
import transformers
from PIL import Image


def parts() -> tuple[types.ModuleType, ...]:
    """The package's modules that are needed, without its __init__."""
    top = Path(importlib.util.find_spec("ImageReward").submodule_search_locations[0])
    for name in ("ImageReward", "ImageReward.models"):
        package = types.ModuleType(name)
        package.__path__ = [str(top.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    blip = "ImageReward.models.BLIP."
    names = ("ImageReward.ImageReward", f"{blip}blip", f"{blip}blip_pretrain", f"{blip}vit")
    return tuple(importlib.import_module(name) for name in names)


official, blip, blip_pretrain, vit = parts()
MED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": len(seeded.BERT) + 2,
    "encoder_width": 768,
    "add_cross_attention": True,
}
"""The released file's keys."""


def small_vision(*_: object, **__: object) -> tuple[torch.nn.Module, int]:
    return vit.VisionTransformer(img_size=224, patch_size=56, embed_dim=128, depth=2, num_heads=2), 128


def main() -> None:
    mlp = official.MLP
    official.MLP = lambda width: mlp(MED["hidden_size"])
    blip_pretrain.create_vit = small_vision
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(seeded.BERT) + "\n", encoding="utf-8")
        read = blip.BertTokenizer.from_pretrained
        blip.BertTokenizer.from_pretrained = lambda name: read(folder, do_lower_case=True)
        (Path(folder) / "med_config.json").write_text(json.dumps(MED))
        model = official.ImageReward(f"{folder}/med_config.json").eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    shapes.pop("blip.text_encoder.embeddings.position_ids")
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
    model.load_state_dict(state, strict=False)  # less position_ids
    images = [Image.fromarray(picture) for picture in seeded.pictures()]
    with torch.no_grad():
        scores = [[model.score(prompt, image) for image in images] for prompt in seeded.PROMPTS]
    settings = {"padding": "max_length", "truncation": True, "max_length": 35}
    document = {
        "made_by": f"image-reward 1.5, transformers {transformers.__version__}, torch {torch.__version__}",
        "med_config": MED,
        "shapes": shapes,
        "tokens": [model.blip.tokenizer(prompt, **settings).input_ids for prompt in seeded.PROMPTS],
        "scores": scores,
    }
    seeded.write_golden(Path(__file__).with_name("imagereward.json"), document)


main()
