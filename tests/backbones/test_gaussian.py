import pytest
import torch

from backbones.gaussian import Gaussian
from lpobench.sampling import RectifiedFlow
from lpobench.types import Backbone


def test_it_keeps_the_contract(schedule):
    assert isinstance(Gaussian(schedule), Backbone)


def test_the_denoiser_knows_the_posterior_mean():
    """x0 ~ N(1, 0.5^2) on a flow at sigma 0.5: var(x_t) = 0.25^2 + 0.5^2 = 0.3125, cov(x0, x_t) = 0.125.

    So x_t = 1, 0.5 above its mean, gives E[x0] = 1 + 0.125 / 0.3125 * 0.5 = 1.2.
    """
    backbone, schedule = Gaussian(RectifiedFlow()), RectifiedFlow()
    latents, t = torch.ones(1, 1, 4, 4), torch.tensor([500.0])
    output = backbone.predict(latents, t, backbone.encode_prompt(["1"]))
    x0, _ = schedule.split_prediction(output, latents, t)
    assert x0.flatten().tolist() == pytest.approx([1.2] * 16)


def test_decode_is_the_inverse_of_encode(schedule):
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    backbone = Gaussian(schedule)
    torch.testing.assert_close(backbone.decode(backbone.encode(images)), images)


def test_export_writes_the_trained_shift(make_policy, tmp_path):
    from safetensors.torch import load_file

    policy = make_policy()
    policy.trained[0].data.fill_(0.25)
    policy.backbone.export_lora(tmp_path / "lora")
    assert load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")["shift"].item() == 0.25
