"""The recipe of the embedded models: `python -m backbones.tiny.train vae|base --work DIR --out FOLDER`.

Two stages, each seeded, resumable (rerun the same command) and closed by its gate:

    vae    the autoencoder; the judge must agree on >= 93 % of reconstructions of held-out renders
    base   text encoder and UNet on its latents; 40-75 % of 600 held-out prompts correct, single objects >= 75 %

Training pictures are rendered as they are needed, from training scenes only. Every latent a model sees is drawn from
the encoder's posterior. The base is stopped on purpose while it still errs: preference optimisation needs something
to gain.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from backbones.tiny import gates, models
from backbones.tiny.families import FAMILIES, SD3
from backbones.tiny.optimizer import MuonAdamW
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import sample_scenes


def pictures(num: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Training renders as (n, 3, 64, 64) in [-1, 1], and their prompts."""
    scenes = sample_scenes("train", num, rng)
    images = torch.from_numpy(np.stack([draw(scene, rng) for scene in scenes]))
    return images.permute(0, 3, 1, 2).contiguous() * 2 - 1, [scene.text for scene in scenes]


def learning_rate(step: int, steps: int, warmup: int = 50, decay: float = 0.3) -> float:
    """Linear warm-up, plateau, linear decay over the last `decay` of the run: a run may be prolonged on its plateau."""
    return min(1.0, (step + 1) / warmup, max(0.01, (steps - step) / (decay * steps)))


class Progress:
    """The state of a stage: weights, their moving average, optimiser, step. Saved every `every` steps."""

    def __init__(
        self, module: nn.Module, optimizer: MuonAdamW, path: Path, ema_decay: float, every: int = 200
    ):
        self.module, self.optimizer, self.path, self.every, self.step = module, optimizer, path, every, 0
        self.ema = EMAModel(
            module.parameters(), decay=ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.9, foreach=True
        )
        if path.exists():
            state = torch.load(path, weights_only=True)
            module.load_state_dict(state["weights"])
            optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            self.step = state["step"]

    def advance(self, loss: Tensor, scale: float, report: str) -> None:
        """One optimiser step on a loss; stops on a loss that is not finite, before the step."""
        value = loss.item()
        if not np.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {self.step}")
        loss.backward()
        self.optimizer.step(scale)
        self.ema.step(self.module.parameters())
        self.step += 1
        if self.step % 50 == 0:
            print(
                f"{time.strftime('%H:%M:%S')} step {self.step} loss {value:.4f} {report}",
                file=sys.stderr,
                flush=True,
            )
        if self.step % self.every == 0:
            self.save()

    def save(self) -> None:
        state = {
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        self.path.with_suffix(".tmp").replace(self.path)


def train_vae(args: argparse.Namespace) -> None:
    """Squared and absolute error, colored pixels counted five times, a whisper of KL."""
    torch.manual_seed(args.seed)
    vae = models.vae().to(args.device)
    run = Progress(vae, MuonAdamW(vae, 0.01, 2e-3), args.work / "vae.pt", ema_decay=0.995)
    autocast = torch.autocast(args.device, torch.bfloat16)
    while run.step < args.steps:
        rng = np.random.default_rng((args.seed, run.step))
        torch.manual_seed(args.seed + run.step)
        images = pictures(args.batch, rng)[0].to(args.device)
        with autocast:
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - images
        weight = 1 + 4 * ((images.amax(1) - images.amin(1)) > 0.4).float()[:, None]
        weight = weight / weight.mean()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = (weight * (error.square() + 0.3 * error.abs())).mean() + 1e-4 * kl
        psnr = -10 * (error.detach().square().mean() / 4).log10()
        run.advance(loss, learning_rate(run.step, args.steps), f"psnr {psnr:.2f}")
        if run.step % 1000 == 0:
            print("gate", gates.vae(vae, num=200), file=sys.stderr, flush=True)
    run.save()
    run.ema.copy_to(vae.parameters())
    with torch.no_grad():
        latents = torch.cat(
            [
                vae.encode(
                    pictures(100, np.random.default_rng((args.seed, 10**9 + i)))[0].to(args.device)
                ).latent_dist.sample()
                for i in range(10)
            ]
        )
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.save_pretrained(args.out / "vae")
    print(json.dumps({"gate": gates.vae(vae), "scaling_factor": vae.config.scaling_factor}))


@torch.no_grad()
def encode_pictures(vae, num: int, args: argparse.Namespace) -> tuple[Tensor, Tensor, list[str]]:
    """Posterior means and standard deviations, scaled, and prompts, of `num` training renders; cached in `work`."""
    path = args.work / f"latents-{num}.pt"
    if not path.exists():
        rng, means, stds, prompts = np.random.default_rng(args.seed), [], [], []
        for _ in range(num // 200):
            images, texts = pictures(200, rng)
            posterior = vae.encode(images.to(args.device)).latent_dist
            means.append(posterior.mean.cpu() * vae.config.scaling_factor)
            stds.append(posterior.std.cpu() * vae.config.scaling_factor)
            prompts += texts
        torch.save({"mean": torch.cat(means), "std": torch.cat(stds), "prompts": prompts}, path)
    saved = torch.load(path, weights_only=True)
    return saved["mean"].to(args.device), saved["std"].to(args.device), saved["prompts"]


def train_base(args: argparse.Namespace) -> None:
    """One caption in ten dropped. Noise prediction with min-SNR-5 weights, or the flow's velocity, unweighted."""
    torch.manual_seed(args.seed)
    vae = models.vae().from_pretrained(args.vae or args.out / "vae").eval().to(args.device)
    vae.register_to_config(_name_or_path=models.LATENT_SPACE)  # not the folder it lies in here
    tokenizer = models.tokenizer(args.work / "tokenizer")
    mean, std, prompts = encode_pictures(vae, args.pictures, args)
    pad = {"padding": "max_length", "max_length": models.TEXT_LENGTH, "return_tensors": "pt"}
    ids = tokenizer(prompts, **pad).input_ids.to(args.device)
    empty = tokenizer([""], **pad).input_ids.to(args.device)
    net = FAMILIES[args.model](tokenizer).to(args.device)
    if isinstance(net, SD3):
        net.take_text_encoders(args.text_encoders)
    schedule = net.schedule()
    optimizer = MuonAdamW(net, 0.01, 2e-3, weight_decay=0.02)
    run = Progress(net, optimizer, args.work / f"{args.model}.pt", ema_decay=0.998)
    while run.step < args.steps:
        torch.manual_seed(args.seed + run.step)
        rows = torch.randint(len(mean), (args.batch,), device=args.device)
        t = schedule.random_timesteps(args.batch).to(args.device)
        x0, noise = mean[rows] + std[rows] * torch.randn_like(mean[rows]), torch.randn_like(mean[rows])
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in schedule.levels(t))
        dropped = torch.rand(args.batch, device=args.device) < 0.1
        output = net(alpha * x0 + sigma * noise, t, ids[rows], empty, dropped)
        error = (output - schedule.target(x0, noise, t)).square().mean((1, 2, 3))
        if schedule.prediction == "epsilon":
            snr = (alpha / sigma).square().flatten()
            error = error * snr.clamp(max=5) / snr
        run.advance(error.mean(), learning_rate(run.step, args.steps, warmup=100), "")
        if run.step % args.gate_every == 0:
            seen = gates.base(pipeline(args.model, net, vae, tokenizer, run.ema), num=args.gate_prompts)
            print("gate", seen, file=sys.stderr, flush=True)
            with (args.work / f"{args.model}-gates.jsonl").open("a") as log:
                log.write(json.dumps({"step": run.step, **seen}) + "\n")
    run.save()
    pipe = pipeline(args.model, net, vae, tokenizer, run.ema)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    denoiser.half()  # stored in half the size; diffusers reads it back as float32, transformers would not
    pipe.save_pretrained(args.out, safe_serialization=True)
    denoiser.float()
    print(json.dumps({"steps": run.step, "gate": gates.base(pipe, num=600)}))


def pipeline(model: str, net: nn.Module, vae, tokenizer, ema: EMAModel):
    """A stock pipeline of a copy of the averaged weights."""
    averaged = FAMILIES[model](tokenizer).to(next(net.parameters()).device)
    averaged.load_state_dict(net.state_dict())
    ema.copy_to(averaged.parameters())
    return averaged.eval().pipeline(vae, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["vae", "base"])
    parser.add_argument("--model", choices=[*FAMILIES], default="tiny-sd15", help="base model to train")
    parser.add_argument("--vae", type=Path, help="VAE folder of the base (default: the one in --out)")
    parser.add_argument(
        "--text-encoders",
        type=Path,
        default=Path(__file__).parent / "tiny-sdxl",
        help="pipeline folder whose text encoders tiny-sd3 takes, frozen (default: tiny-sdxl's)",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and cached latents")
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument(
        "--steps", type=int, help="optimiser steps in all (vae 6000, base 6000)", default=6000
    )
    parser.add_argument("--batch", type=int, help="pictures per step (vae 16, base 64)")
    parser.add_argument("--pictures", type=int, default=40_000, help="renders the base is trained on")
    parser.add_argument("--gate-every", type=int, default=1000, help="steps between looks at the base's gate")
    parser.add_argument("--gate-prompts", type=int, default=120, help="held-out prompts of such a look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.batch = args.batch or {"vae": 16, "base": 64}[args.stage]
    args.work.mkdir(parents=True, exist_ok=True)
    {"vae": train_vae, "base": train_base}[args.stage](args)


if __name__ == "__main__":
    main()
