"""Work at the published models' true size, counted on tensors without memory."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTokenizer

from backbones._diffusers.random_weights import RandomSource
from lpobench.timing.phases import flops_of
from rewards.lrm.blocks import UNetBlocks, empty_unet
from rewards.spm import random_weights

META = torch.device("meta")
TERA = 1e12


def meta(*shape):
    return torch.zeros(shape, device=META)


@pytest.fixture(scope="module")
def unet():
    return RandomSource("sd15").empty("unet", UNet2DConditionModel).to(META)


@pytest.fixture(scope="module")
def forward(unet):
    """One denoiser forward of SD 1.5 at 512 x 512."""
    with torch.no_grad():
        return flops_of(lambda: unet(meta(1, 4, 64, 64), meta(1), meta(1, 77, 768)))


def test_a_denoiser_forward_of_sd15(forward):
    assert forward == pytest.approx(0.803 * TERA, rel=0.005)


@pytest.fixture(scope="module")
def latent_pass(unet, forward):
    """Down and mid blocks of one latent under one text, in denoiser forwards."""
    blocks = UNetBlocks(empty_unet(unet.config))
    given = meta(1, 4, 64, 64), meta(1), meta(1, 77, 768), meta(1, 768)
    with torch.no_grad():
        return flops_of(lambda: blocks(*given, 1)) / forward


@pytest.fixture(scope="module")
def decode(forward):
    vae = RandomSource("sd15").empty("vae", AutoencoderKL).to(META)
    with torch.no_grad():
        return flops_of(lambda: vae.decode(meta(1, 4, 64, 64))) / forward


@pytest.fixture(scope="module")
def picture(forward):
    """The SPM's own look at one 512 x 512 image."""
    model = random_weights.empty(RandomSource("sd15").tokenizer("tokenizer", CLIPTokenizer))
    with torch.no_grad():
        return flops_of(lambda: model.encode_images(meta(1, 3, 512, 512), meta(1))) / forward


def test_parts_of_a_score(latent_pass, decode, picture):
    """In denoiser forwards: a third, three, and less than a half."""
    assert latent_pass == pytest.approx(0.325, abs=0.002)
    assert decode == pytest.approx(3.13, abs=0.02)
    assert picture == pytest.approx(0.42, abs=0.02)


def test_lrm_against_spm(latent_pass, decode, picture):
    """A candidate: two passes against a guided call, a decode and a look. A step of four: a guided call besides.

    The paper's times: 0.243 / 0.039 = 6.2 for four candidates.
    """
    lrm, spm = 2 * latent_pass, 2 + decode + picture
    assert spm / lrm == pytest.approx(8.5, abs=0.2)
    assert (2 + 4 * spm) / (2 + 4 * lrm) == pytest.approx(5.25, abs=0.1)
