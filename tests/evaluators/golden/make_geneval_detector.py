# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "mmdet==2.27.0", "mmcv==1.7.2", "torch==2.15.0", "torchvision", "numpy<2", "pillow<10", "yapf==0.33.0",
#     "opencv-python-headless<4.12", "setuptools<81",
# ]
# [tool.uv]
# build-constraint-dependencies = ["setuptools<70"]
# override-dependencies = ["opencv-python; sys_platform == 'never'"]
# ///
"""Golden detections: `MMCV_WITH_OPS=0 uv run --script tests/evaluators/golden/make_geneval_detector.py [--full]`.

What mmdet's own code finds with small random weights, as GenEval calls it; with --full, the official sizes, to be
looked at. mmcv is taken without its compiled operators: on a CPU multi-scale deformable attention is mmcv's own
Python. Weights and images follow from names and a frozen generator, see made_mask2former.py: the test makes the same.
"""

import importlib.machinery
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

extension = types.ModuleType("mmcv._ext")
extension.__file__ = "not compiled"
extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
extension.__getattr__ = lambda name: lambda *args, **kwargs: None
sys.modules["mmcv._ext"] = extension

import made_mask2former as made
import mmcv
import mmdet
import numpy as np
import torch
from made_geneval import golden_text
from mmdet.apis import inference_detector, init_detector

CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py"


def official(full):
    """The official configuration, and the small one that differs in sizes alone."""
    config = mmcv.Config.fromfile(Path(mmdet.__file__).parent / CONFIG)
    config.model.backbone.init_cfg = None
    if not full:
        shrink(config)
    return init_detector(config, None, device="cpu")


def shrink(config):
    width, backbone, head = made.WIDTH, config.model.backbone, config.model.panoptic_head
    backbone.update(embed_dims=made.EMBED, depths=made.DEPTHS, num_heads=made.HEADS)
    head.update(in_channels=[made.EMBED * 2**i for i in range(4)], feat_channels=width, out_channels=width)
    head.num_queries = made.QUERIES
    encoder, decoder = head.pixel_decoder.encoder, head.transformer_decoder
    encoder.num_layers, decoder.num_layers = made.ENCODER_LAYERS, made.DECODER_LAYERS
    encoder.transformerlayers.attn_cfgs.update(embed_dims=width, num_heads=made.ATTENTION_HEADS)
    encoder.transformerlayers.ffn_cfgs.update(embed_dims=width, feedforward_channels=made.ENCODER_INNER)
    decoder.transformerlayers.attn_cfgs.update(embed_dims=width, num_heads=made.ATTENTION_HEADS)
    decoder.transformerlayers.ffn_cfgs.update(embed_dims=width, feedforward_channels=made.DECODER_INNER)
    decoder.transformerlayers.feedforward_channels = made.DECODER_INNER
    for encoding in (head.pixel_decoder.positional_encoding, head.positional_encoding):
        encoding.num_feats = width // 2
    config.data.test.pipeline[1].img_scale = made.SCALE


def found(detector, image):
    """Detections sorted by class, then score: class, score, box, pixels of the mask."""
    boxes, masks = inference_detector(detector, np.ascontiguousarray(image[:, :, ::-1]))
    rows = []
    for label in range(80):
        for box, mask in zip(boxes[label], masks[label], strict=True):
            area = int(np.asarray(mask).sum())
            rows.append((label, round(float(box[4]), 7), [int(side) for side in box[:4]], area))
    return sorted(rows, key=lambda row: (row[0], -row[1]))


def shapes_of(detector):
    """Of what is trained."""
    state = detector.state_dict()
    return {name: list(value.shape) for name, value in state.items() if not name.endswith(made.NO_WEIGHT)}


def main(full):
    shapes = {name: shapes_of(official(name == "full_shapes")) for name in ("shapes", "full_shapes")}
    short = {"shapes": made.firsts(shapes["shapes"])}
    short["full_shapes"] = made.firsts(shapes["full_shapes"])
    assert made.expanded(short["shapes"], made.SMALL) == shapes["shapes"]
    assert made.expanded(short["full_shapes"], made.FULL) == shapes["full_shapes"]
    detector = official(full)
    lacking, unknown = detector.load_state_dict(
        made.weights(shapes["full_shapes" if full else "shapes"]), strict=False
    )
    assert not unknown, unknown
    assert all(name.endswith(made.NO_WEIGHT) for name in lacking), lacking
    images = [made.image(*size, seed) for seed, size in enumerate(made.FULL_SIZES if full else made.SIZES)]
    by = f"mmdet {mmdet.__version__}, mmcv {mmcv.__version__}, torch {torch.__version__.split('+')[0]}"
    document = {"by": by, **short, "columns": ["class", "score", "box", "pixels of the mask"]}
    document |= {f"detections {n}": found(detector, image) for n, image in enumerate(images)}
    print(golden_text(document), end="")


if __name__ == "__main__":
    main("--full" in sys.argv)
