# /// script
# requires-python = "==3.11.*"
# dependencies = ["controlnet-aux==0.0.10", "timm==0.6.13", "torch", "torchvision", "numpy<2", "pillow<11"]
# ///
"""Golden depths: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_dpt.py`.

DPTDepthModel of MiDaS 3, which the package controlnet-aux carries and T2I-CompBench has a copy of, with a smaller
vision transformer and ResNet; then the map as T2I-CompBench's 3D script makes it, an 8-bit picture. What
controlnet_aux imports at its top is stepped around.
"""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import seeded
import timm
import torch
from PIL import Image
from timm.models.layers import GroupNormAct, StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed
from torchvision import transforms

sys.path.append(f"{importlib.util.find_spec('controlnet_aux').submodule_search_locations[0]}/midas")
from midas import blocks, vit
from midas.dpt_depth import DPTDepthModel

SIZES = [(480, 480), (96, 64), (301, 224)]
WIDTH, LAYERS, FUSION = 64, 12, 16
STEM, STAGES = 32, (128, 128, 256)
NECK = (*STAGES[:2], 48, 56)
STEP = 29
"""Every so many pixels of a map are kept."""


def model() -> DPTDepthModel:
    """Of the smaller sizes, which the released code has as constants."""
    backbone = ResNetV2(
        layers=(1, 1, 1),
        channels=STAGES,
        num_classes=0,
        global_pool="",
        stem_chs=STEM,
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
        norm_layer=partial(GroupNormAct, num_groups=32),
    )
    small = VisionTransformer(
        img_size=384,
        patch_size=1,
        embed_dim=WIDTH,
        depth=LAYERS,
        num_heads=WIDTH // 64,
        mlp_ratio=2,
        num_classes=0,
        embed_layer=partial(HybridEmbed, backbone=backbone),
    )
    timm.create_model = lambda *_, **__: small
    whole, scratch = vit._make_vit_b_rn50_backbone, blocks._make_scratch
    vit._make_vit_b_rn50_backbone = lambda net, **given: whole(
        net, **{**given, "features": NECK, "vit_features": WIDTH}
    )
    blocks._make_scratch = lambda _, *rest, **given: scratch(NECK, *rest, **given)
    return DPTDepthModel(backbone="vitb_rn50_384", non_negative=True, features=FUSION).eval()


@torch.no_grad()
def main() -> None:
    official = model()
    shapes = {name: list(value.shape) for name, value in official.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
    official.load_state_dict(state)
    prepare = transforms.Compose(
        [transforms.Resize([480, 480]), transforms.ToTensor(), transforms.Normalize(mean=0.5, std=0.5)]
    )
    depths, maps = [], []
    for number, (width, height) in enumerate(SIZES):
        picture = Image.fromarray(seeded.picture(width, height, seed=number))
        [depth] = official(prepare(picture)[None])
        depths.append(depth[::STEP, ::STEP].double().numpy().round(6).tolist())
        depth = (depth - depth.min()) / (depth.max() - depth.min())
        large = torch.nn.functional.interpolate(
            depth[None, None], size=(height, width), mode="bilinear", align_corners=True
        )
        kept = Image.fromarray(255 * large[0, 0].numpy()).convert("L")
        maps.append(np.asarray(transforms.Resize(size=479, max_size=480)(kept))[::STEP, ::STEP].tolist())
    document = {
        "made_by": f"controlnet-aux 0.0.10, timm {timm.__version__}, torch {torch.__version__}",
        "shapes": shapes,
        "sizes": SIZES,
        "step": STEP,
        "depths": depths,
        "maps": maps,
    }
    seeded.write_golden(Path(__file__).parent / "dpt.json", document)


main()
