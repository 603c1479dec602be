# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "open_clip_torch==2.20.0", "clip_benchmark==1.4.0", "torch==2.15.0", "torchvision", "numpy<2", "pillow<10",
#     "pandas<3", "setuptools<81",
# ]
# [tool.uv]
# override-dependencies = ["torch==2.15.0", "torchvision>=0.20", "numpy<2", "pandas<3"]
# ///
"""Golden verdicts and colours: `uv run --script tests/evaluators/golden/make_geneval_rules.py CHECKOUT`.

CHECKOUT is github.com/djghosh13/geneval at af4902f: its evaluate_images.py decides. In the verdicts the detector (mmdet
is not needed) and the colours are made, all else is the tool's own; then its colour classifier is asked, with a random
CLIP.
"""

import importlib.util
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import made_geneval as made
import numpy as np
import open_clip
import torch
from PIL import Image

detector = types.ModuleType("mmdet.apis")
detector.inference_detector = detector.init_detector = None
sys.modules |= {"mmdet": types.ModuleType("mmdet"), "mmdet.apis": detector}
GLOBALS = {
    "DEVICE": "cpu",
    "object_detector": None,
    "args": types.SimpleNamespace(options={}),
    "THRESHOLD": 0.3,
    "COUNTING_THRESHOLD": 0.9,
    "MAX_OBJECTS": 16,
    "NMS_THRESHOLD": 1.0,
    "POSITION_THRESHOLD": 0.1,
}
"""What the tool's main program sets."""


def official(checkout):
    """The tool's module, past its demand for a GPU."""
    spec = importlib.util.spec_from_file_location("official", checkout / "evaluation" / "evaluate_images.py")
    module = importlib.util.module_from_spec(spec)
    asked, torch.cuda.is_available = torch.cuda.is_available, lambda: True
    spec.loader.exec_module(module)
    torch.cuda.is_available = asked
    vars(module).update(GLOBALS)
    module.classnames = (checkout / "evaluation" / "object_names.txt").read_text().splitlines()
    return module


def colours(module):
    """The classifier's names and logits for the made objects."""
    loader = torch.utils.data.DataLoader
    torch.utils.data.DataLoader = lambda crops, batch_size, num_workers: loader(crops, batch_size=batch_size)
    vision = {"image_size": 224, "patch_size": 56, "width": 64, "layers": 2, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    sides = open_clip.model.CLIPVisionCfg(**vision), open_clip.model.CLIPTextCfg(**text)
    module.clip_model = open_clip.model.CLIP(32, *sides, quick_gelu=True).eval()
    module.clip_model.load_state_dict(made.as_open_clip(made.clip_weights()), strict=False)
    module.transform = open_clip.transform.image_transform(224, False, made.MEAN, made.STD)
    module.tokenizer = open_clip.get_tokenizer("ViT-L-14")
    classify, found = module.zsc.run_classification, []

    def remembering(*args, **kwargs):
        logits, _ = result = classify(*args, **kwargs)
        found.append([round(float(value), 6) for value in logits[0]])
        return result

    module.zsc.run_classification = remembering
    names = []
    for number, (name, box) in enumerate(made.COLOURED):
        image = Image.fromarray(made.picture(number))
        names += module.color_classification(image, [(np.float32([*box, 0.9]), made.mask(box))], name)
    return {"colours": names, "logits": found}


def verdicts(module, prompts):
    """Of each prompt's cases."""
    image, found = types.SimpleNamespace(open=lambda path: Image.new("RGB", (made.WIDTH, made.HEIGHT))), []
    module.Image = image
    for number in range(made.REPEATS * len(prompts)):
        demands = prompts[number % len(prompts)]
        objects = made.case(demands, module.classnames, module.COLORS, number)
        of_class = [[(score, box) for c, score, box, _ in objects if c == label] for label in range(80)]
        boxes = [np.float32([[*box, score] for score, box in some]).reshape(-1, 5) for some in of_class]
        masks = [[made.mask(box) for _, box in some] for some in of_class]
        known = {(module.classnames[c], box): colour for c, _, box, colour in objects}
        module.inference_detector = lambda model, path, result=(boxes, masks): result
        module.color_classification = lambda image, some, name, known=known: [
            known[name, tuple(int(side) for side in box[:4])] for box, _ in some
        ]
        found.append(module.evaluate_image("", demands)["correct"])
    return found


def main(checkout):
    module = official(checkout)
    lines = (checkout / "prompts" / "evaluation_metadata.jsonl").read_text().splitlines()
    document = {
        "by": f"GenEval's evaluate_images.py, open_clip {version('open_clip_torch')}",
        **colours(module),
    }
    found = verdicts(module, [json.loads(line) for line in lines])
    print(made.golden_text({**document, "verdicts": "".join(str(int(one)) for one in found)}), end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
