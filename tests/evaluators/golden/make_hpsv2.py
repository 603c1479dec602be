# /// script
# requires-python = "==3.11.*"
# dependencies = ["hpsv2x==1.2.0", "torch", "torchvision", "numpy<2", "pillow<11"]
# ///
"""Golden HPS scores: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_hpsv2.py`.

hpsv2.img_score.score of hpsv2x 1.2.0 (the official package with the tokenizer's file, which hpsv2 1.2.0 lacks), on a
small random model of the same classes. Both ways to resize: torchvision 0.17 and later smooths (antialias), earlier
ones did not. The official fork keeps an RGBA image as it is and then fails; pictures here are RGB.
"""

import functools
import json
import sys
import tempfile
import types
from pathlib import Path

sys.modules["turtle"] = types.ModuleType("turtle")  # imported by mistake, for a name; it needs tkinter
sys.modules["turtle"].forward = None

import hpsv2.img_score as official
import seeded
import torch
import torchvision
from hpsv2.src.open_clip import factory, transform
from PIL import Image

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 96, "head_width": 32, "patch_size": 56},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def main() -> None:
    official.device = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "small.json").write_text(json.dumps(CONFIG))
        factory.add_model_config(Path(folder) / "small.json")
        model, _, preprocess = factory.create_model_and_transforms(
            "small", None, precision="amp", device="cpu", light_augmentation=True, output_dict=True
        )
        official.model_dict |= {"model": model, "preprocess_val": preprocess}
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
        file = f"{folder}/HPS.pt"
        torch.save({"state_dict": state, "epoch": 0}, file)
        scores = {"true": table(file)}
        transform.F.resize = functools.partial(transform.F.resize, antialias=False)
        scores["false"] = table(file)
    made_by = f"hpsv2x 1.2.0, torch {torch.__version__}, torchvision {torchvision.__version__}"
    document = {"made_by": made_by, "config": CONFIG, "shapes": shapes, "antialias": scores}
    seeded.write_golden(Path(__file__).with_name("hpsv2.json"), document)


def table(file: str) -> list[list[float]]:
    images = [Image.fromarray(picture) for picture in seeded.pictures()]
    return [[float(score) for score in official.score(images, prompt, cp=file)] for prompt in seeded.PROMPTS]


main()
