"""Makes `shapes-pairs`: `python -m backbones.tiny.pairs --out FOLDER [--source sampled|near-miss]`.

The embedded analogue of Pick-a-Pic. `sampled` pairs are pictures of one prompt by the base model itself, as the real
data's are; `near-miss` pairs are renders, one true to the prompt and one with a single attribute changed. The judge's
preference is the truth; labels are a noisy annotator's: Bradley-Terry noise, and a tie where even the noisy difference
is small. The three gaps MPCF reads are the judge's aesthetics, its bag-of-words view and its alignment.

Training pairs use training prompts. `validation_unique` and `test_unique` use held-out prompts, one pair each.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from backbones.tiny import TinySD15
from lpobench.data.pairs import LatentPairs, PairsMeta
from lpobench.data.shapes.annotator import altered, labelled
from lpobench.data.shapes.judge import Judgement, judge
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import Scene, sample_scenes
from lpobench.sampling import Policy
from lpobench.spec import SamplingSettings

GAP_UNITS = (0.15, 3.0, 1.5)
"""One published unit (an aesthetic point, a CLIP cosine, a VQAScore) in the judge's own parts, all in [0, 1]."""
BATCH = 120


@torch.no_grad()
def sample(backbone, wanted: list[Scene], num_steps: int, seed: int) -> Tensor:
    """One latent per scene by the base model, guidance 5; half of the batches with fresh noise at every step."""
    policy = Policy(backbone, SamplingSettings(num_steps=num_steps, guidance_scale=5.0, eta=1.0))
    generator, latents = torch.Generator().manual_seed(seed), []
    for start in range(0, len(wanted), BATCH):
        prompts = [scene.text for scene in wanted[start : start + BATCH]]
        x = torch.randn((len(prompts), *backbone.latent_shape), generator=generator)
        for t, s in zip(policy.timesteps[:-1], policy.timesteps[1:], strict=True):
            times = (torch.full((len(prompts),), time) for time in (t, s))
            x = policy.step(x, *times, prompts, eta=start // BATCH % 2).sample(1, generator)[0]
        latents.append(x)
        print(f"sampled {start + len(prompts)} of {len(wanted)}", file=sys.stderr, flush=True)
    return torch.cat(latents)


def encode(backbone, pictures: list[np.ndarray]) -> Tensor:
    """Posterior means of renders."""
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return torch.cat([backbone.encode(part) for part in images.split(BATCH)])


def judged(backbone, wanted: list[Scene], latents: Tensor) -> list[Judgement]:
    """The judge's word on decoded latents."""
    images = torch.cat([backbone.decode(part) for part in latents.split(BATCH)]).permute(0, 2, 3, 1).numpy()
    return [judge(scene, image) for scene, image in zip(wanted, images, strict=True)]


def rows(
    split: str, prompt: str, uids: list[str], words: list[Judgement], rng: np.random.Generator
) -> list[dict]:
    """Every pair of one prompt's images, labelled, in random order."""
    pairs = [(i, j) for j in range(len(words)) for i in range(j)]
    pairs = [pair if rng.random() < 0.5 else pair[::-1] for pair in pairs]
    shared = {"caption": prompt, "num_example_per_prompt": len(pairs), "has_label": True, "split": split}
    return [
        {**shared, **labelled(words[i], words[j], rng), "image_0_uid": uids[i], "image_1_uid": uids[j]}
        for i, j in pairs
    ]


def make(args: argparse.Namespace) -> LatentPairs:
    """All splits of one source."""
    backbone = TinySD15().load(torch.device("cpu"), torch.float32)
    rng, table, latents, uids = np.random.default_rng(args.seed), [], [], []
    for split, num in (
        ("train", args.prompts),
        ("validation_unique", args.held_out),
        ("test_unique", args.held_out),
    ):
        group = args.images if split == "train" and args.source == "sampled" else 2
        base = sample_scenes("train" if split == "train" else "eval", num, rng)
        repeated = [scene for scene in base for _ in range(group)]
        if args.source == "sampled":
            z = sample(backbone, repeated, args.steps, seed=args.seed + len(uids))
        else:
            z = encode(backbone, [draw(s, rng) for scene in base for s in (scene, altered(scene, rng))])
        words = judged(backbone, repeated, z)
        names = [f"{args.source}-{len(uids) + i:06d}" for i in range(len(repeated))]
        for i, scene in enumerate(base):
            part = slice(i * group, (i + 1) * group)
            table += rows(split, scene.text, names[part], words[part], rng)
        latents.append(z)
        uids += names
    meta = PairsMeta(
        latent_space=backbone.latent_space,
        backbone=backbone.name,
        made_by=f"python -m backbones.tiny.pairs --source {args.source} --prompts {args.prompts} "
        f"--images {args.images} --held-out {args.held_out} --steps {args.steps} --seed {args.seed}",
        gap_units=GAP_UNITS,
    )
    return LatentPairs(pd.DataFrame(table), torch.cat(latents).half(), uids, meta)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--source", choices=["sampled", "near-miss"], default="sampled")
    parser.add_argument("--prompts", type=int, default=2500, help="training prompts")
    parser.add_argument(
        "--images", type=int, default=4, help="sampled pictures per training prompt; all their pairs are used"
    )
    parser.add_argument(
        "--held-out", type=int, default=500, help="pairs in each of validation_unique and test_unique"
    )
    parser.add_argument("--steps", type=int, default=12, help="denoising steps of a sampled picture")
    parser.add_argument("--seed", type=int, default=0)
    pairs = make(parser.parse_args())
    pairs.write(parser.parse_args().out)
    tie, flip = pairs.table["label_0"] == 0.5, (pairs.table["label_0"] - 0.5) * pairs.true_gap < 0
    print(f"{len(pairs)} pairs of {len(pairs.uids)} images")
    print(f"{tie.mean():.1%} ties, {flip.mean():.1%} of labels against the truth")


if __name__ == "__main__":
    main()
