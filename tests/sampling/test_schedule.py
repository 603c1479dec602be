import pytest
import torch

from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow, Schedule, VariancePreserving


def test_every_schedule_keeps_the_contract(schedule):
    assert isinstance(schedule, Schedule)
    grid = schedule.timesteps(20)
    assert grid.shape == (21,)
    assert (grid.diff() < 0).all()


def test_split_prediction_undoes_target(schedule):
    t = torch.tensor([1.0, 5.0, 500.0, 900.0])
    x0, eps = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in schedule.levels(t))
    found = schedule.split_prediction(schedule.target(x0, eps, t), alpha * x0 + sigma * eps, t)
    torch.testing.assert_close(found[0], x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], eps, atol=1e-4, rtol=1e-4)


def test_split_prediction_by_hand():
    """v-prediction at alpha 0.6, sigma 0.8, x_t = 1, output 2: x0 = 0.6 - 1.6 = -1, eps = 0.8 + 1.2 = 2."""
    schedule = VariancePreserving(torch.tensor([0.36], dtype=torch.float64), "v_prediction")
    one = torch.ones(1, 1, 1, 1)
    x0, eps = schedule.split_prediction(2 * one, one, torch.zeros(1))
    torch.testing.assert_close((x0, eps), (-one, 2 * one))


def test_half_precision_is_raised_to_float32(schedule):
    half = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)
    assert all(
        part.dtype == torch.float32 for part in schedule.split_prediction(half, half, torch.tensor([500.0]))
    )


def test_variance_preserving_levels():
    alpha, sigma = VariancePreserving.scaled_linear().levels(torch.arange(1000.0))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000))


def test_clean_end_is_timestep_minus_one():
    schedule = VariancePreserving(torch.tensor([0.9, 0.5], dtype=torch.float64), set_alpha_to_one=True)
    assert schedule.timesteps(1).tolist() == [1, -1]
    assert [level.item() for level in schedule.levels(torch.tensor([-1.0]))] == [1, 0]


@pytest.mark.parametrize("num_steps", [1000, 1001])
def test_a_grid_beyond_training_is_refused(num_steps):
    with pytest.raises(UserError, match=f"num_steps {num_steps}"):
        VariancePreserving.scaled_linear().timesteps(num_steps)


def test_shift_moves_the_grid_towards_noise():
    """sigma 0.5 at shift 3 becomes 1.5 / 2 = 0.75; a shift of 1 changes nothing."""
    middle = [RectifiedFlow(shift)._shifted(torch.tensor(0.5)).item() for shift in (1.0, 3.0)]
    assert middle == [0.5, 0.75]


def test_random_timesteps_follow_the_generator(schedule):
    def draw(seed):
        return schedule.random_timesteps(1000, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert draw(0).min() >= 0
    assert draw(0).max() <= 1000
    middle = 750 if isinstance(schedule, RectifiedFlow) else 500
    assert draw(0).median().item() == pytest.approx(middle, abs=40)


def test_training_timesteps_of_a_flow_are_shifted_like_its_sampling_grid():
    """The median of the logit-normal is 0.5; at shift 3 that is 3 * 0.5 / (1 + 2 * 0.5) = 0.75."""
    drawn = RectifiedFlow(shift=3.0).random_timesteps(20_000, torch.Generator().manual_seed(0))
    assert drawn.median().item() == pytest.approx(750, abs=5)
    assert RectifiedFlow(shift=1.0).random_timesteps(
        20_000, torch.Generator().manual_seed(0)
    ).median().item() == pytest.approx(500, abs=5)
