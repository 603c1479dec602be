"""Time a scorer spends outside its network: `python tests/benchmarks/scoring.py [--images 32] [--side 512]`.

PNG files of noise are scored as `lpobench score` does it, by a CLIPScore with random weights of ViT-L/14's size.
Printed: seconds in the network, seconds besides, their share, and the process's memory after each quarter.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from evaluators._clip.prompts import PromptCache, openai_tokenizer
from evaluators._clip.similarity import Similarity
from evaluators._clip.tower import Tower
from evaluators._live import Scorer
from evaluators._pixels import Preparation
from evaluators.clipscore import ClipScoreL
from lpobench.data.image_prompts import with_prompts
from lpobench.scoring.plain_images import ImageScorer

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}


class Clock:
    """Seconds that calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call):
        def timed(*given):
            started = time.perf_counter()
            found = call(*given)
            self.seconds += time.perf_counter() - started
            return found

        return timed


def resident() -> int:
    """MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=512)
    given = parser.parse_args()
    config = CLIPConfig(text_config=TEXT, vision_config=VISION | {"patch_size": 14}, projection_dim=768)
    clip, clock, settings = Tower(CLIPModel(config).eval()), Clock(), ClipScoreL()
    clip.model.get_image_features = clock.around(clip.model.get_image_features)
    clip.model.get_text_features = clock.around(clip.model.get_text_features)
    look = partial(clip.embed_images, prepare=Preparation(224, "round"), batch_size=settings.batch_size)
    texts = PromptCache(openai_tokenizer(*clip.text_size), clip.embed_tokens)
    scorer = ImageScorer({}, None, {"clipscore_l": Scorer.of(settings, Similarity(look, texts))})
    with tempfile.TemporaryDirectory() as name:
        folder, draw = Path(name), np.random.default_rng(0)
        for number in range(given.images):
            pixels = draw.integers(0, 256, (given.side, given.side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:05d}.png")
            (folder / f"{number:05d}.txt").write_text(f"picture number {number}")
        memory, done = [], [0]

        def advance(count: int) -> None:
            done[0] += count
            if done[0] * 4 // given.images > len(memory):
                memory.append(resident())

        started = time.perf_counter()
        scorer.score(folder, with_prompts(folder, None), advance)
        whole = time.perf_counter() - started
    besides = whole - clock.seconds
    print(f"{given.images} images of {given.side} x {given.side}, {torch.get_num_threads()} threads")
    print(f"network {clock.seconds:.2f} s, besides {besides:.2f} s, {besides / whole:.1%} of {whole:.2f} s")
    print(f"memory after each quarter: {memory} MiB")


main()
