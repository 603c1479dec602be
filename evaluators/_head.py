"""The affine heads of the aesthetic predictor and of ImageReward: five linear layers, no activation between them."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def affine_mlp(width: int) -> nn.Sequential:
    """Layers are numbered as in the released heads, where dropouts have numbers too."""
    layers = {"0": (width, 1024), "2": (1024, 128), "4": (128, 64), "6": (64, 16), "7": (16, 1)}
    return nn.Sequential(OrderedDict((name, nn.Linear(*sizes)) for name, sizes in layers.items()))
