"""An LRM trained from a latent cache and from the images themselves sees the same data."""

import pytest
import tiny_unet
import torch

from lpobench.data.pairs.encode import plan_encoding
from lpobench.data.pairs.plan import pair_table
from lpobench.data.pairs.source import open_pairs
from lpobench.plugin import UserError
from rewards import fitting
from rewards.lrm import LRM, LRMTraining
from rewards.lrm.train import train_reward

SOURCE = "shapes:30"


@pytest.fixture
def backbone():
    """The small UNet, with a VAE of 8 x 8 averages of the colours and their mean; it counts what it encodes."""
    unet = tiny_unet.backbone()
    unet.encoded = []

    def posterior(images):
        unet.encoded.append(len(images))
        colours = torch.nn.functional.adaptive_avg_pool2d(images, 8) * 4 - 2
        mean = torch.cat([colours, colours.mean(1, keepdim=True)], 1)
        return mean, mean - 3

    unet.posterior = posterior
    unet.image_side, unet.vae_identity = lambda: 64, lambda: "averages"
    unet.vae_dtype, unet.release_vae = lambda: torch.float32, lambda: unet.encoded.append("released")
    return unet


@pytest.fixture
def losses(monkeypatch):
    """The loss of every step."""
    seen, real = [], fitting.preference_loss

    def watched(*args):
        loss = real(*args)
        if loss.requires_grad:
            seen.append(loss.item())
        return loss

    monkeypatch.setattr(fitting, "preference_loss", watched)
    return seen


def train(backbone, folder, pairs: str, **training):
    training = LRMTraining(steps=12, batch_size=8, warmup=2, validate_every=12, **training)
    train_reward(LRM(pairs=pairs, training=training), backbone, folder, seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize("posterior", ["mean", "sample"])
def test_cache_and_images_give_the_same_losses(posterior, backbone, losses, tmp_path):
    source = open_pairs(SOURCE)
    plan_encoding(source, pair_table(source), backbone, tmp_path / "cache", 16).run((0, 1))
    backbone.encoded.clear()
    train(backbone, tmp_path / "a", str(tmp_path / "cache"), posterior=posterior)
    assert backbone.encoded == ["released"], "no VAE is used, and none is kept"
    train(backbone, tmp_path / "b", SOURCE, posterior=posterior)
    assert sum(backbone.encoded[1:]) >= 12 * 8
    cached, live = losses[:12], losses[12:]
    assert len(live) == 12
    torch.testing.assert_close(torch.tensor(cached), torch.tensor(live), atol=1e-5, rtol=0)


def test_a_folder_of_means_gives_no_draws(backbone, tmp_path):
    folder = tiny_unet.pairs_folder(tmp_path / "pairs")
    with pytest.raises(UserError, match="keep posterior means only"):
        train(backbone, tmp_path / "a", str(folder), posterior="sample")
