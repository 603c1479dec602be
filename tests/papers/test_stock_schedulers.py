"""Our one step formula and grids against the diffusers schedulers they replace."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow, StepDistribution, VariancePreserving, transition

SD15 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def ddim(**changes):
    return DDIMScheduler.from_config(SD15 | {"clip_sample": False} | changes)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
@pytest.mark.parametrize("num_steps", [5, 20, 30])
def test_deterministic_step_is_stock_ddim(prediction, set_alpha_to_one, num_steps):
    scheduler = ddim(prediction_type=prediction, set_alpha_to_one=set_alpha_to_one)
    scheduler.set_timesteps(num_steps)
    schedule = VariancePreserving.from_scheduler_config(scheduler.config)
    grid = schedule.timesteps(num_steps)
    assert grid[:-1].tolist() == scheduler.timesteps.tolist()

    generator = torch.Generator().manual_seed(0)
    latents, output = torch.randn(2, num_steps, 4, 8, 8, generator=generator)
    x0, eps = schedule.split_prediction(output, latents, grid[:-1])
    alpha_s, c, std = transition(schedule, grid[:-1], grid[1:], "ddim", 0.0)
    ours = StepDistribution(alpha_s * x0 + c * eps, std).sample(1)[0]
    stock = [
        scheduler.step(*row).prev_sample for row in zip(output, scheduler.timesteps, latents, strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(stock), atol=5e-5, rtol=5e-5)


def test_step_noise_is_stock_ddim_variance():
    scheduler, schedule = ddim(), VariancePreserving.scaled_linear()
    scheduler.set_timesteps(20)
    grid = schedule.timesteps(20)
    variances = [scheduler._get_variance(int(t), int(t) - 50) for t in scheduler.timesteps]
    std = transition(schedule, grid[:-1], grid[1:], "ddim", 1.0)[2].flatten()
    torch.testing.assert_close(std, torch.stack(variances).sqrt(), atol=1e-5, rtol=1e-4)


def test_stable_diffusion_config_is_the_default_schedule():
    torch.testing.assert_close(
        VariancePreserving.from_scheduler_config(SD15).alphas_cumprod,
        VariancePreserving.scaled_linear().alphas_cumprod,
    )
    torch.testing.assert_close(
        VariancePreserving.from_scheduler_config({"beta_schedule": "linear"}).alphas_cumprod.float(),
        DDIMScheduler().alphas_cumprod,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2'"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is set"),
    ],
)
def test_other_configs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        VariancePreserving.from_scheduler_config(SD15 | change)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [4, 10, 28])
def test_flow_grid_is_the_stock_one(shift, num_steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    ours = RectifiedFlow(shift).timesteps(num_steps) / 1000
    torch.testing.assert_close(ours, scheduler.sigmas, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 4, 28])
@pytest.mark.parametrize(
    ("config", "image_tokens", "shift"),
    [  # FLUX.1-dev's: mu is 0.5 at 256 tokens and 1.15 at 4096; 512 pixels are 1024 tokens: 0.5 + 0.65 * 768 / 3840
        ({"use_dynamic_shifting": True, "shift": 3.0}, 256, math.exp(0.5)),
        ({"use_dynamic_shifting": True, "shift": 3.0}, 1024, math.exp(0.63)),
        ({"use_dynamic_shifting": True, "shift": 3.0}, 4096, math.exp(1.15)),
        ({"use_dynamic_shifting": False, "shift": 3.0}, 4096, 3.0),
        ({"use_dynamic_shifting": True, "max_shift": 0.5, "max_image_seq_len": 512}, 300, math.exp(0.5)),
    ],
)
def test_flux_grid_is_the_stock_pipelines(config, image_tokens, shift, num_steps):
    """Its pipeline hands the scheduler 1 ... 1 / n and mu; at one resolution a dynamic shift is a constant one."""
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    lengths = scheduler.config.base_image_seq_len, scheduler.config.max_image_seq_len
    mu = calculate_shift(image_tokens, *lengths, scheduler.config.base_shift, scheduler.config.max_shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), mu=mu)
    ours = RectifiedFlow.from_scheduler_config(config, image_tokens)
    assert ours.shift == pytest.approx(shift)
    torch.testing.assert_close(ours.timesteps(num_steps) / 1000, scheduler.sigmas, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift_terminal": 0.02}, "shift_terminal is set"),
        ({"invert_sigmas": True}, "invert_sigmas is set"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is set"),
        ({"stochastic_sampling": True}, "stochastic_sampling is set"),
        ({"time_shift_type": "linear"}, "time_shift_type is 'linear', not exponential"),
        ({"num_train_timesteps": 500}, "num_train_timesteps is 500, not 1000"),
    ],
)
def test_flux_grids_that_are_no_shift_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        RectifiedFlow.from_scheduler_config({"use_dynamic_shifting": True} | change, 4096)
