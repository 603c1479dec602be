"""A random CLIP small enough for tests, in the stock folder layout."""

from pathlib import Path

import tiny_unet
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

SIDE, WIDTH, LAYERS = 16, 16, 2


def clip(side: int = SIDE, seed: int = 0) -> CLIPModel:
    """Reads letters; sees `side` pixels in patches of 8."""
    tokens = tiny_unet.tokenizer()
    layers = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "projection_dim": 8,
    }
    special = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**layers, **special, "vocab_size": len(tokens), "max_position_embeddings": 12}
    vision = {**layers, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


def folder(place: Path, side: int = SIDE, seed: int = 0) -> Path:
    """Model, tokenizer and image processor."""
    clip(side, seed).save_pretrained(place)
    tiny_unet.tokenizer().save_pretrained(place)
    sides = {"height": side, "width": side}
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size=sides).save_pretrained(place)
    return place
