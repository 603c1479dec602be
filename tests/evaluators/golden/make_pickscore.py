# /// script
# requires-python = "==3.11.*"
# dependencies = ["transformers==4.27.3", "tokenizers==0.13.3", "torch", "numpy<2", "pillow<11", "open_clip_torch"]
# ///
"""Golden PickScores: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_pickscore.py`.

The demo of PickScore's repository (yuvalkirstain/PickScore, README.md) under transformers 4.27.3, whose image
processor and attention are those the score was published with, on a small random CLIP of the same class.
"""

import json
import math
import tempfile
from pathlib import Path

import open_clip
import seeded
import torch
import transformers
from PIL import Image
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

WIDTHS = {"num_hidden_layers": 2, "hidden_act": "gelu"}
CONFIG = {
    "projection_dim": 256,
    "logit_scale_init_value": 2.6592,
    "text_config": WIDTHS
    | {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "eos_token_id": 2},
    "vision_config": WIDTHS
    | {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3, "patch_size": 56},
}
PROCESSOR = {  # as in laion/CLIP-ViT-H-14-laion2B-s32B-b79K
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def main() -> None:
    model = CLIPModel(CLIPConfig(**CONFIG))
    shapes = {
        name: list(value.shape) for name, value in model.state_dict().items() if "position_ids" not in name
    }
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
    state["logit_scale"] = torch.tensor(math.log(100))
    model.load_state_dict(state, strict=False)  # less position_ids
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        bpe = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
        seeded.write_clip_vocabulary(Path(folder), bpe)
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
    scores = [calc(processor, model, prompt) for prompt in seeded.PROMPTS]
    document = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "config": CONFIG,
        "shapes": shapes,
        "scores": scores,
    }
    seeded.write_golden(Path(__file__).with_name("pickscore.json"), document)


def calc(processor: object, model: torch.nn.Module, prompt: str) -> list[float]:
    """The demo's function, less its softmax."""
    images = [Image.fromarray(picture) for picture in seeded.pictures()]
    settings = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    image_inputs, text_inputs = processor(images=images, **settings), processor(text=prompt, **settings)
    with torch.no_grad():
        image_embs = model.get_image_features(**image_inputs)
        image_embs = image_embs / torch.norm(image_embs, dim=-1, keepdim=True)
        text_embs = model.get_text_features(**text_inputs)
        text_embs = text_embs / torch.norm(text_embs, dim=-1, keepdim=True)
        return (model.logit_scale.exp() * (text_embs @ image_embs.T)[0]).tolist()


main()
