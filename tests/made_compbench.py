"""Small random weights of BLIP-VQA and DPT-hybrid, those of the golden numbers (see seeded.py), as released."""

from pathlib import Path

import seeded
import torch

HEAD = "text_decoder.cls.predictions."


def vqa_weights() -> dict[str, torch.Tensor]:
    """In the released code the decoder shares two of them with its embeddings and with itself."""
    state = made("blip_vqa")
    state[f"{HEAD}decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    state[f"{HEAD}decoder.bias"] = state[f"{HEAD}bias"]
    return state


def depth_weights() -> dict[str, torch.Tensor]:
    return made("dpt")


def made(name: str) -> dict[str, torch.Tensor]:
    shapes = seeded.golden(name)["shapes"]
    return {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}


def write_vqa(folder: Path) -> Path:
    """The released file, and the vocabulary of its tokenizer beside it."""
    names = ("text_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")
    positions = {name: torch.arange(40)[None] for name in names}
    torch.save({"model": {**vqa_weights(), **positions}}, folder / "model_base_vqa_capfilt_large.pth")
    words = seeded.golden("blip_vqa")["words"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder / "model_base_vqa_capfilt_large.pth"
