# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "hpsv2x==1.2.0",            # hpsv2 itself lacks its vocabulary file; this is the same code with it
#     "setuptools<81",
#     "pillow<12",
# ]
# ///
"""HPSv2 and HPSv2.1 by their own code, whose `score` would read the checkpoint again for every image."""

import sys
import types

from _pipe import serve, there, versions

live = {}


def open_model(options):
    """options: weights (HPS_v2_compressed.pt or HPS_v2.1_compressed.pt), device."""
    import torch

    sys.modules.setdefault(
        "turtle", types.ModuleType("turtle")
    ).forward = None  # imported by mistake; needs tkinter
    from hpsv2.src.open_clip import create_model_and_transforms, get_tokenizer

    model, _, prepare = create_model_and_transforms(
        "ViT-H-14",
        None,
        precision="amp",
        device=options["device"],
        light_augmentation=True,
        output_dict=True,
        with_score_predictor=False,
        with_region_predictor=False,
    )
    weights = torch.load(there(options, "weights"), map_location=options["device"], weights_only=True)
    model.load_state_dict(weights["state_dict"])
    live.update(options, model=model.to(options["device"]).eval(), prepare=prepare)
    live["tokens"] = get_tokenizer("ViT-H-14")
    return {"versions": versions("hpsv2x", "torch", "torchvision")}


def score(items):
    """The cosine of each image and its prompt."""
    import torch
    from PIL import Image

    scores = []
    for item in items:
        image = live["prepare"](Image.open(item["image"])).unsqueeze(0).to(live["device"])
        text = live["tokens"]([item["prompt"]]).to(live["device"])
        with torch.no_grad(), torch.autocast("cuda", enabled=live["device"].startswith("cuda")):
            found = live["model"](image, text)
            scores.append(float((found["image_features"] @ found["text_features"].T)[0, 0]))
    return scores


serve(open=open_model, score=score)
