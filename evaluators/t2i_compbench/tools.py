"""Loading what looks at images, each only where its assets are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from evaluators._blip.vqa import Questioner, read_network
from evaluators._blip.words import read_words
from evaluators._clip.prompts import PromptCache, openai_tokenizer
from evaluators._clip.similarity import Similarity
from evaluators._clip.tower import tower
from evaluators._pixels import Preparation
from evaluators.t2i_compbench.depth import DepthMeter, read_model
from evaluators.t2i_compbench.judge import Tools
from evaluators.t2i_compbench.settings import CLIP, CODE, DEPTH, DETECTRON2, R50, RS200, TOKENIZER, VQA
from evaluators.t2i_compbench.unidet import UniDet
from lpobench.scoring.worker import Limits, Worker


def read_tools(assets: dict[str, Path], device: torch.device, online: bool) -> Tools:
    """All that the assets are for; workers are started. Raises MissingAsset, UserError and WorkerError."""
    return Tools(
        questioner=_questioner(assets[VQA], assets[TOKENIZER], device) if VQA in assets else None,
        similarity=_similarity(assets[CLIP], device) if CLIP in assets else None,
        depth=DepthMeter(read_model(assets[DEPTH]).to(device)) if DEPTH in assets else None,
        planar=_unidet(RS200, assets, device, online) if RS200 in assets else None,
        detector=_unidet(R50, assets, device, online) if R50 in assets else None,
    )


def _questioner(weights: Path, words: Path, device: torch.device) -> Questioner:
    network = read_network(weights)
    return Questioner(network.to(device), read_words(words, network.vocabulary))


def _similarity(folder: Path, device: torch.device) -> Similarity:
    """CLIPScore as the evaluator clipscore has it, one image at a time."""
    clip = tower(folder, torch.float32, device)
    prepare = Preparation.read(folder / "preprocessor_config.json", clip.image_size, "round")
    look = partial(clip.embed_images, prepare=prepare, batch_size=1)
    return Similarity(look, PromptCache(openai_tokenizer(*clip.text_size), clip.embed_tokens))


def _unidet(which: str, assets: dict[str, Path], device: torch.device, online: bool) -> UniDet:
    """A process of its own for each of the two."""
    places = {"weights": assets[which], "code": assets[CODE], "detectron2": assets[DETECTRON2]}
    options = {name: str(path.absolute()) for name, path in places.items()}
    options |= {"model": which.removeprefix("UniDet "), "device": str(device)}
    return UniDet(Worker("unidet", options, Limits(online=online)).start())
