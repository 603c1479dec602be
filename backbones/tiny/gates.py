"""What an embedded model must reach before it is shipped; the recipe prints it, a test looks at fewer prompts."""

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from backbones.tiny import models
from lpobench.data.shapes.judge import judge
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import TASKS, sample_scenes

VAE_AGREEMENT = 0.93
BASE_CORRECT = (0.40, 0.75)
SINGLE_CORRECT = 0.75


@torch.no_grad()
def vae(vae, num: int = 600, seed: int = 1) -> dict[str, float]:
    """Share of reconstructed held-out renders that the judge still finds correct, and their PSNR in dB."""
    rng, device = np.random.default_rng(seed), next(vae.parameters()).device
    correct, errors = [], []
    for _ in range(num // 50):
        scenes = sample_scenes("eval", 50, rng)
        images = (
            torch.from_numpy(np.stack([draw(scene, rng) for scene in scenes])).permute(0, 3, 1, 2).to(device)
        )
        decoded = vae.decode(vae.encode(images * 2 - 1).latent_dist.mode()).sample.float()
        decoded = (decoded / 2 + 0.5).clamp(0, 1)
        errors.append((decoded - images).square().mean((1, 2, 3)))
        correct += [
            judge(s, i).correct
            for s, i in zip(scenes, decoded.permute(0, 2, 3, 1).cpu().numpy(), strict=True)
        ]
    psnr = -10 * torch.cat(errors).log10().mean()
    return {
        "agreement": round(float(np.mean(correct)), 4),
        "psnr": round(psnr.item(), 2),
        "num": len(correct),
    }


def base(pipe, num: int = 600, seed: int = 1, batch: int = 60) -> dict[str, float]:
    """Share of correct pictures of held-out prompts by task: 20 DDIM steps, guidance 5, eta 0, a stock pipeline."""
    rng, right = np.random.default_rng(seed), {task: [] for task in TASKS}
    scenes = sample_scenes("eval", num, rng)
    generator = torch.Generator().manual_seed(seed)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 20, "guidance_scale": 5.0, "generator": generator, "output_type": "np"}
    if isinstance(pipe, StableDiffusion3Pipeline):
        settings["max_sequence_length"] = models.T5_TOKENS
    for start in range(0, num, batch):
        some = scenes[start : start + batch]
        prompts = [scene.text for scene in some]
        images = pipe(prompts, **settings).images
        for scene, image in zip(some, images, strict=True):
            right[scene.task].append(judge(scene, image).correct)
    by_task = {task: round(float(np.mean(values)), 4) for task, values in right.items()}
    overall = float(np.mean([value for values in right.values() for value in values]))
    single = float(np.mean(right["single_object"] + right["colors"]))
    return {"correct": round(overall, 4), "single": round(single, 4), **by_task, "num": num}
