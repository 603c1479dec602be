# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "image-reward==1.5",
#     "clip-anytorch==2.6.0",     # what it imports as clip, and does not declare
#     "transformers==4.36.1",     # later ones lack functions that it imports
#     "diffusers==0.27.2",        # newer ones do not import beside transformers 4.36
#     "huggingface-hub<0.25",     # diffusers 0.27 needs a function that later ones lack
#     "setuptools<81",            # pkg_resources, for clip
#     "pillow<12",
# ]
# ///
"""ImageReward by its own package."""

import os
import tempfile

from _pipe import serve, there, versions

live = {}


def open_model(options):
    """options: weights (ImageReward.pt), config (med_config.json), tokenizer (bert-base-uncased's folder), device."""
    weights, config = os.path.abspath(there(options, "weights")), os.path.abspath(there(options, "config"))
    folder = tempfile.mkdtemp(prefix="image-reward-")
    os.symlink(os.path.abspath(there(options, "tokenizer")), os.path.join(folder, "bert-base-uncased"))
    os.chdir(folder)  # where the package asks for bert-base-uncased, it finds this
    import ImageReward

    live["model"] = ImageReward.load(weights, device=options["device"], med_config=config)
    return {"versions": versions("image-reward", "transformers", "torch")}


def score(items):
    """One image and its prompt at a time, as the package has it."""
    import torch

    with torch.no_grad():
        return [float(live["model"].score(item["prompt"], item["image"])) for item in items]


serve(open=open_model, score=score)
