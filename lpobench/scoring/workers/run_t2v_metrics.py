# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "t2v-metrics==1.2",         # the last version with CLIP-FlanT5 that resolves; it pins transformers 4.36.1
#     "image-reward==1.5",        # else an older one is taken, which does not build
#     "clip-anytorch==2.6.0",     # what image-reward imports as clip, and does not declare
#     "diffusers==0.27.2",        # newer ones do not import beside transformers 4.36
#     "huggingface-hub<0.25",     # diffusers 0.27 needs a function that later ones lack
#     "setuptools<81",            # pkg_resources, for clip
#     "pillow<12",
#     "sentencepiece",
#     "protobuf<4",
# ]
# ///
"""VQAScore by t2v_metrics itself: CLIP-FlanT5 in bfloat16 as released; in float32 on a CPU, where it would not run."""

import json
import os
import tempfile

from _pipe import serve, there, versions

live = {}


def open_model(options):
    """options: model (clip-flant5-xl, -xxl), device, and folders: weights, tokenizer, eye (the vision tower)."""
    from t2v_metrics import VQAScore
    from t2v_metrics.models.vqascore_models.clip_t5_model import CLIP_T5_MODELS

    folder = tempfile.mkdtemp(prefix="t2v-metrics-")
    weights = beside(there(options, "weights"), there(options, "eye"), folder)
    row = CLIP_T5_MODELS[options["model"]]
    row["model"]["path"], row["tokenizer"]["path"] = weights, there(options, "tokenizer")
    live["score"] = VQAScore(options["model"], device=options["device"], cache_dir=folder)
    if options["device"] == "cpu":
        in_float32(live["score"].model, weights)
    return {"versions": versions("t2v-metrics", "transformers", "torch")}


def in_float32(live_model, weights):
    """The weights again, unrounded: the package has made them bfloat16, and autocasts on a GPU only."""
    model = live_model.model.float()
    fresh = type(model).from_pretrained(weights)
    fresh.resize_token_embeddings(len(live_model.tokenizer))
    model.load_state_dict(fresh.state_dict(), strict=False)
    if not fresh.get_vision_tower().is_loaded:  # the weights have none of their own
        model.get_vision_tower().load_model()


def beside(weights, eye, folder):
    """The weights' folder, whose config names the vision tower's folder in place of a repository."""
    place = os.path.join(folder, "model")
    os.mkdir(place)
    for name in os.listdir(weights):
        if name != "config.json":
            os.symlink(os.path.abspath(os.path.join(weights, name)), os.path.join(place, name))
    with open(os.path.join(weights, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    with open(os.path.join(place, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**config, "mm_vision_tower": os.path.abspath(eye)}, file)
    return place


def score(items):
    """One image and its prompt at a time, as the package's own loop."""
    return [float(live["score"](images=[item["image"]], texts=[item["prompt"]])[0, 0]) for item in items]


serve(open=open_model, score=score)
