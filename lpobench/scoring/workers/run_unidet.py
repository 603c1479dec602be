# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "torch", "torchvision", "numpy<2", "pillow<12",
#     "fvcore==0.1.5.post20221221", "iopath==0.1.9", "yacs", "omegaconf", "pycocotools",
#     "cloudpickle", "matplotlib", "packaging", "tabulate", "termcolor", "tqdm",
# ]
# ///
"""UniDet as T2I-CompBench runs it, by code that the user has: T2I-CompBench's folder UniDet_eval, whose licence forbids
commercial use, and detectron2, of which only the Python files are needed. Neither is in the package registry.
"""

import os
import sys
import types

from _pipe import Missing, serve, there, versions

THRESHOLD = 0.5
"""What the official script sets; the network's own configuration has 0.1 where it counts."""
live = {}


def open_model(options):
    """options: model (RS200, R50), weights, code (the folder UniDet_eval), detectron2 (a clone of it), device."""
    weights, code = os.path.abspath(there(options, "weights")), os.path.abspath(there(options, "code"))
    config = f"experts/obj_detection/configs/Unified_learned_OCIM_{options['model']}_6x+2x.yaml"
    if not os.path.exists(os.path.join(code, config)):
        raise Missing(f"no {config} in {code}, which should be the folder UniDet_eval of T2I-CompBench")
    sys.path[:0] = [code, os.path.abspath(there(options, "detectron2"))]
    os.chdir(code)  # the configuration names files from here
    import torch
    from detectron2.engine.defaults import DefaultPredictor
    from experts.obj_detection.utils import setup_cfg

    chosen = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", options["device"]]
    config = setup_cfg(types.SimpleNamespace(config_file=config, opts=chosen, confidence_threshold=THRESHOLD))
    labels = torch.load("dataset/detection_features.pt", map_location="cpu", weights_only=True)["labels"]
    live.update(model=DefaultPredictor(config).model.eval(), labels=labels, device=options["device"])
    return {"versions": versions("torch", "torchvision")}


def detect(images):
    """Of each image file, which has the detector's size already: labels, scores and boxes, the surest first."""
    return [found(path) for path in images]


def found(path):
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as file:
        pixels = np.array(file.convert("RGB"))[:, :, ::-1].astype("float32")  # blue, green, red
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    with torch.no_grad(), torch.autocast("cuda", enabled=live["device"].startswith("cuda")):
        seen = live["model"]([{"image": image, "height": height, "width": width}])[0]["instances"]
    return {
        "labels": [live["labels"][number] for number in seen.pred_classes.tolist()],
        "scores": seen.scores.float().tolist(),
        "boxes": seen.pred_boxes.tensor.float().tolist(),
    }


serve(open=open_model, detect=detect)
