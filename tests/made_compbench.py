"""Small random weights of BLIP-VQA and DPT-hybrid, those of the golden numbers (see seeded.py), as released."""

from pathlib import Path

import made_scorers
import seeded
import torch

from evaluators.t2i_compbench.settings import T2ICompBench
from lpobench.types import Prompt

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


def compbench(folder: Path) -> T2ICompBench:
    """The categories that need no UniDet."""
    torch.save(depth_weights(), folder / "dpt.pt")
    places = {
        "blip": write_vqa(folder),
        "tokenizer": folder,
        "clip": made_scorers.clip_folder(folder / "clip", seeded.golden("clipscore")),
        "depth": folder / "dpt.pt",
    }
    categories = ("color", "shape", "texture", "non_spatial")
    return T2ICompBench(categories=categories, **{name: str(place) for name, place in places.items()})


def prompts() -> list[Prompt]:
    """Published ones, of three categories."""
    texts = ("a green bench and a blue bowl", "a metallic desk lamp and a fluffy sweater")
    texts += ("A person is looking at a rainbow and marveling at its beauty.",)
    return [Prompt(text, str(number)) for number, text in enumerate(texts)]
