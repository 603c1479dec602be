"""Scorers with small random weights, in the released layouts: those of the golden numbers (see seeded.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import seeded
import torch
from safetensors.torch import save_file
from transformers import T5Tokenizer

from evaluators._network import Network
from evaluators.aesthetic import Aesthetic
from evaluators.clipscore import ClipScore, ClipScoreH, ClipScoreL, ClipScoreTiny
from evaluators.hpsv2 import HPSv2, HPSv21
from evaluators.imagereward import ImageReward
from evaluators.pickscore import PickScore
from evaluators.vqascore import VQAScore, VQAScoreXL
from lpobench.types import Prompt

Weights = dict[str, torch.Tensor]


def weights(golden: dict) -> Weights:
    return {name: torch.from_numpy(value) for name, value in seeded.weights(golden["shapes"]).items()}


def images(size: tuple[int, int], *seeds: int) -> torch.Tensor:
    """Golden pictures, n 3 H W in [0, 1]."""
    pictures = [torch.from_numpy(seeded.picture(*size, seed=seed)) for seed in seeds]
    return torch.stack(pictures).movedim(-1, 1) / 255


def table(settings: Network) -> list[list[float]]:
    """Scores by prompt and golden picture, a batch per picture."""
    live, prompts = (
        settings.load(torch.device("cpu"), torch.float32),
        [Prompt(text, "") for text in seeded.PROMPTS],
    )
    (metric,) = live.metrics
    columns = [
        live.score(images(size, seed).expand(len(prompts), -1, -1, -1), prompts)[metric]
        for seed, size in enumerate(seeded.SIZES)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def clip_folder(place: Path, golden: dict, **more: torch.Tensor) -> Path:
    """A CLIP with OpenAI's tokenizer."""
    config = golden["config"]
    write_json(place / "config.json", {"model_type": "clip", **config})
    state = {"logit_scale": torch.zeros(()), **weights(golden), **more}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    return place


def vocabulary(place: Path) -> Path:
    """The tokenizer and preprocessing of LAION's CLIP ViT-H/14."""
    normal = {
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    write_json(place / "preprocessor_config.json", normal)
    write_json(place / "tokenizer_config.json", {"model_max_length": 77})
    seeded.write_clip_vocabulary(place, Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz")
    return place


def pickscore(place: Path) -> PickScore:
    scale = torch.tensor(100.0).log()
    clip = clip_folder(place / "clip", seeded.golden("pickscore"), logit_scale=scale)
    return PickScore(weights=str(clip), processor=str(vocabulary(place / "processor")))


def clipscore(place: Path, kind: type[ClipScore] = ClipScore) -> ClipScore:
    folder = clip_folder(place / "clip", seeded.golden("clipscore"))
    if kind is ClipScoreTiny:
        vocabulary(folder)
    return kind(weights=str(folder))


def aesthetic(place: Path) -> Aesthetic:
    golden = seeded.golden("clipscore")
    sizes = {"0": (1024, 24), "2": (128, 1024), "4": (64, 128), "6": (16, 64), "7": (1, 16)}
    shapes = {f"layers.{name}.weight": size for name, size in sizes.items()}
    shapes |= {f"layers.{name}.bias": size[:1] for name, size in sizes.items()}
    folder, file = clip_folder(place / "clip", golden), place / "head.pth"
    torch.save(weights({"shapes": shapes}), file)
    return Aesthetic(head=str(file), clip=str(folder))


def hpsv2(place: Path, kind: type[HPSv2] = HPSv2) -> HPSv2:
    golden = seeded.golden("hpsv2")
    write_json(place / "small.json", golden["config"])
    torch.save({"epoch": 1, "name": "", "state_dict": weights(golden)}, place / "HPS.pt")
    return kind(weights=str(place / "HPS.pt"), architecture=str(place / "small.json"))


def imagereward(place: Path) -> ImageReward:
    golden = seeded.golden("imagereward")
    write_json(place / "med_config.json", golden["med_config"])
    ids = torch.arange(golden["med_config"]["max_position_embeddings"])[None]
    torch.save(
        {**weights(golden), "blip.text_encoder.embeddings.position_ids": ids}, place / "ImageReward.pt"
    )
    write_json(place / "bert" / "tokenizer_config.json", {"do_lower_case": True})
    (place / "bert" / "vocab.txt").write_text("\n".join(seeded.BERT) + "\n", encoding="utf-8")
    return ImageReward(weights=str(place), tokenizer=str(place / "bert"))


def vqascore(place: Path, kind: type[VQAScore] = VQAScore) -> VQAScore:
    """In two shards, as the released folders are."""
    golden = seeded.golden("vqascore")
    config = {
        "model_type": "clip_t5",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        **golden["config"],
    }
    write_json(place / "config.json", config)
    state, parts = weights(golden), [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    where = {name: parts[number % 2] for number, name in enumerate(state)}
    write_json(place / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": where})
    for part in parts:
        torch.save({name: value for name, value in state.items() if where[name] == part}, place / part)
    write_json(
        place / "eye" / "config.json", {"model_type": "clip", "vision_config": golden["vision_config"]}
    )
    pieces = [(piece, score) for piece, score in golden["pieces"]]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    T5Tokenizer(vocab=pieces).save_pretrained(place / "t5")
    return kind(weights=str(place), tokenizer=str(place / "t5"), eye=str(place / "eye"))


MAKERS: dict[str, Callable[[Path], Network]] = {
    "aesthetic": aesthetic,
    "clipscore": clipscore,
    "clipscore_l": lambda place: clipscore(place, ClipScoreL),
    "clipscore_h": lambda place: clipscore(place, ClipScoreH),
    "clipscore_tiny": lambda place: clipscore(place, ClipScoreTiny),
    "hpsv2": hpsv2,
    "hpsv21": lambda place: hpsv2(place, HPSv21),
    "imagereward": imagereward,
    "pickscore": pickscore,
    "vqascore": vqascore,
    "vqascore_xl": lambda place: vqascore(place, VQAScoreXL),
}
"""By the evaluator's name: settings whose files are in a folder that is there and empty."""
OFFICIAL = {"hpsv2": "hpsv2x", "hpsv21": "hpsv2x", "imagereward": "image-reward"}
OFFICIAL |= {"vqascore": "t2v-metrics", "vqascore_xl": "t2v-metrics"}
"""The worker that has the authors' own code."""
