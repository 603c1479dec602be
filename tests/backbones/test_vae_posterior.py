"""What the latent cache asks of a backbone: the VAE's posterior, its name, and that it is loaded only when needed."""

import pytest
import torch

from backbones.tiny import TinySD15
from lpobench.data.pairs.autoencoder import as_autoencoder
from lpobench.plugin import UserError


def load(dtype=torch.float32):
    return TinySD15().load(torch.device("cpu"), dtype)


def test_the_posterior_is_the_vaes_own_scaled():
    """Scaled by c, a latent's log-variance grows by 2 ln c: draws match the VAE's own, times c."""
    backbone, images = load(), torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    mean, logvar = backbone.posterior(images)
    assert torch.equal(mean, backbone.encode(images))
    own = backbone.vae.encode(images * 2 - 1).latent_dist
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    expected = (own.mean + own.std * noise) * backbone.vae.config.scaling_factor
    torch.testing.assert_close(mean + (logvar / 2).exp() * noise, expected, atol=1e-5, rtol=1e-5)


def test_the_vae_has_one_name_in_every_precision_and_is_loaded_late():
    exact, half = load(), load(torch.bfloat16)
    names = exact.vae_identity(), as_autoencoder(half).vae_identity()
    assert names[0] == names[1]
    assert "vae" not in exact.__dict__
    assert "vae" not in half.__dict__
    assert exact.image_side() == 64
    before = exact.encode(torch.zeros(1, 3, 64, 64))
    exact.release_vae()
    assert "vae" not in exact.__dict__
    assert torch.equal(exact.encode(torch.zeros(1, 3, 64, 64)), before)
    with torch.no_grad():
        next(exact.vae.parameters()).add_(1)
    exact._vae_identity = None
    assert exact.vae_identity() != names[0]


def test_a_backbone_without_a_vae_is_refused():
    with pytest.raises(UserError, match="has no VAE to encode with"):
        as_autoencoder(object())
