"""The recipe of `tiny-clip`: `python -m rewards.tiny_clip --work DIR --out FOLDER`.

A CLIP of shapes world (64 x 64 pixels, 1.2 M parameters) trained on renders and their captions: the start of the
embedded SPM, and the embedded CLIPScore. The folder is a stock one: CLIPModel, tokenizer, image processor. Stored
in float16; transformers keeps that on reading, so cast with `.float()`.

Contrastive as in CLIP, with what shapes world makes possible: captions that a picture may fit as well ("a star" of
"a red star") are nobody's negatives, captions that mean the same are positives, and every picture meets captions
that err in one attribute. Seeded, resumable (rerun the same command), closed by a gate on held-out scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from lpobench.data.shapes.annotator import altered
from lpobench.data.shapes.render import SIDE, draw
from lpobench.data.shapes.scene import MIRRORED, Relation, Scene, Thing, sample_scenes

TOKENIZER = Path(__file__).parent.parent / "backbones" / "tiny" / "tiny-sd15" / "tokenizer"
WIDTH, HEADS, PROJECTION = 128, 4, 64
NEAR_MISSES = 3
"""Captions with one error that a training picture meets, beside those of the batch."""
DISTRACTORS = 7
MAX_LOGIT_SCALE = math.log(100)  # CLIP
GATE = 0.75
"""Share of held-out pictures whose caption beats all near misses."""


def new_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Four layers that look, two that read; weights from the global generator."""
    layers = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "projection_dim": PROJECTION,
        "hidden_act": "gelu",
    }
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    length = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    text = {**layers, "num_hidden_layers": 2, **length, **special}
    vision = {**layers, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION))


def image_processor() -> CLIPImageProcessor:
    """CLIP's, at 64 pixels."""
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side)


def agreement(a: Scene, b: Scene) -> int:
    """1: they mean the same; -1: no picture fits both; 0: some do ("a star" and "a small red star")."""
    if len(a.things) != len(b.things):
        return -1
    told_the_other_way = _aligned(a, b, b.things[::-1], b.relation and MIRRORED[b.relation])
    return max(_aligned(a, b, b.things, b.relation), told_the_other_way)


def _aligned(a: Scene, b: Scene, things: tuple[Thing, ...], relation: Relation | None) -> int:
    demands = [(a.size, b.size), (a.relation, relation)]
    for mine, other in zip(a.things, things, strict=True):
        demands += [(mine.shape, other.shape), (mine.color, other.color)]
    if any(one and two and one != two for one, two in demands):
        return -1
    return int(all(one == two for one, two in demands))


def near_misses(scene: Scene, num: int, rng: np.random.Generator) -> list[Scene]:
    """Up to `num` scenes no picture of which fits the given one: one attribute changed, or two colors exchanged."""
    found: list[Scene] = []
    for _ in range(4 * num):
        wrong = altered(scene, rng)
        if len({thing.color for thing in scene.things}) == 2 and rng.random() < 0.25:
            (one, two), kept = scene.things, {"relation": scene.relation}
            things = Thing(one.shape, two.color), Thing(two.shape, one.color)
            wrong = Scene(scene.task, things, **kept)
        if agreement(scene, wrong) < 0 and wrong not in found:
            found.append(wrong)
    return found[:num]


def contrastive_loss(
    logits: Float[Tensor, "images captions"], match: Int[Tensor, "images captions"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of pictures over captions and of captions over pictures, nats.

    `match` is 1 where right, -1 where wrong; 0 counts on neither side. A caption that is right nowhere is only a
    negative.
    """

    def one_side(logits: Tensor, match: Tensor) -> Tensor:
        some = (match > 0).any(1)
        logits, match = logits[some], match[some]
        everything = logits.masked_fill(match == 0, -math.inf).logsumexp(1)
        return (everything - logits.masked_fill(match < 1, -math.inf).logsumexp(1)).mean()

    return (one_side(logits, match) + one_side(logits.T, match.T)) / 2


class TinyClipTraining:
    """The state of the training: weights, their moving average, optimisers, step."""

    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.args, self.step = args, 0
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
        self.processor = image_processor()
        self.model = new_model(self.tokenizer)
        named = dict(self.model.named_parameters())
        hidden = [p for name, p in named.items() if ".encoder." in name and p.ndim == 2]
        others = [p for name, p in named.items() if not (".encoder." in name and p.ndim == 2)]
        self.optimizers = [
            torch.optim.Muon(hidden, lr=0.01, weight_decay=0.02, momentum=0.95),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.average = EMAModel(
            self.model.parameters(), decay=0.995, use_ema_warmup=True, inv_gamma=1, power=0.9
        )
        self.path = args.work / "tiny-clip.pt"
        if self.path.exists():
            self._resume(torch.load(self.path, weights_only=True))

    def run(self) -> None:
        """To the last step, saving on the way."""
        args, losses = self.args, []
        self.model.train()
        while self.step < args.steps:
            losses.append(self._update(learning_rate(self.step, args.steps)))
            if self.step % 50 == 0:
                _say(f"step {self.step} loss {np.mean(losses[-50:]):.3f}")
            if self.step % args.save_every == 0 or self.step == args.steps:
                self._save()
                _say(f"gate {self.averaged_gate(200)}")

    def averaged_gate(self, num: int) -> dict[str, float]:
        """The gate of the averaged weights."""
        parameters = list(self.model.parameters())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        found = retrieval(self.model, self.tokenizer, num)
        self.average.restore(parameters)
        return found

    def write(self, folder: Path) -> None:
        """The stock folder of the averaged weights, in float16."""
        self.average.copy_to(self.model.parameters())
        self.model.half().eval().save_pretrained(folder)
        CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True).save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.model.float()

    def _update(self, scale: float) -> float:
        rng = np.random.default_rng((self.args.seed, self.step))
        scenes = sample_scenes("train", self.args.batch, rng)
        pictures = np.stack([draw(scene, rng) for scene in scenes])
        wrong = [miss for scene in scenes for miss in near_misses(scene, NEAR_MISSES, rng)]
        captions = list({scene.text: scene for scene in [*scenes, *wrong]}.values())
        match = torch.tensor([[agreement(scene, caption) for caption in captions] for scene in scenes])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.precision == "bf16"):
            seen, read = embed(self.model, self.tokenizer, pictures, [caption.text for caption in captions])
        loss = contrastive_loss(self.model.logit_scale.exp() * seen @ read.T, match)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.step}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad()
        self.model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        self.average.step(self.model.parameters())
        self.step += 1
        return loss.item()

    def _save(self) -> None:
        state = {
            "weights": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)

    def _resume(self, state: dict) -> None:
        self.model.load_state_dict(state["weights"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average.load_state_dict(state["average"])
        self.step = state["step"]


def embed(
    model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Float[np.ndarray, "n 64 64 3"], captions: list[str]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Unit vectors of pictures in [0, 1] and of captions, float32."""
    processor = image_processor()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) - mean) / std
    tokens = tokenizer(captions, padding=True, return_tensors="pt").input_ids
    seen = model.get_image_features(pixels).pooler_output
    read = model.get_text_features(tokens).pooler_output
    return nn.functional.normalize(seen.float(), dim=-1), nn.functional.normalize(read.float(), dim=-1)


@torch.no_grad()
def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, num: int, seed: int = 1) -> dict[str, float]:
    """Share of held-out pictures whose caption scores above all distractors, over all and by task.

    Of 7 distractors all (`random`) or those that near misses leave room for (`near`, by task too) are captions of
    other held-out scenes that cannot fit.
    """
    rng, was_training = np.random.default_rng(seed), model.training
    scenes = sample_scenes("eval", num, rng)
    model.eval()
    right: dict[str, list[bool]] = {"near": [], "random": []}
    for scene in scenes:
        picture = draw(scene, rng)[None]
        others = [other for other in sample_scenes("eval", 60, rng) if agreement(scene, other) < 0]
        near = near_misses(scene, DISTRACTORS, rng)
        for name, wrong in (("near", [*near, *others]), ("random", others)):
            seen, read = embed(model, tokenizer, picture, [one.text for one in (scene, *wrong[:DISTRACTORS])])
            scores = (seen @ read.T)[0]
            right[name].append(bool(scores[0] > scores[1:].max()))
            if name == "near":
                right.setdefault(scene.task, []).append(right[name][-1])
    model.train(was_training)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()} | {"num": num}


def learning_rate(step: int, steps: int, warmup: int = 50, decay: float = 0.4) -> float:
    """As a share of the peak: linear up, plateau, linear down over the last `decay` of the run."""
    return min(1.0, (step + 1) / warmup, max(0.01, (steps - step) / (decay * steps)))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: the gate on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards.tiny_clip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint (default: --out)")
    parser.add_argument(
        "--steps", type=int, default=1700, help="optimiser steps in all (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures per step (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of the encoders")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--gate-pictures", type=int, default=1200, help="held-out pictures of the gate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.work = args.work or args.out
    args.work.mkdir(parents=True, exist_ok=True)
    training = TinyClipTraining(args)
    training.run()
    training.write(args.out)
    print(
        json.dumps(
            {
                "steps": training.step,
                "gate": retrieval(training.model, training.tokenizer, args.gate_pictures),
            }
        )
    )


if __name__ == "__main__":
    main()
