"""Which steps of a sampling run a method looks at."""

from collections.abc import Sequence

from lpobench.plugin import UserError
from lpobench.sampling.policy import Policy


def stochastic_steps(policy: Policy, timestep_range: tuple[float, float]) -> list[int]:
    """Indices of the policy's steps that have noise and start at a t inside the range, ends included.

    Raises UserError where there is none.
    """
    policy.std_range()  # an eta of 0 is the better complaint
    return steps_inside(policy.timesteps, policy.stds, timestep_range)


def steps_inside(
    timesteps: Sequence[float], stds: Sequence[float], timestep_range: tuple[float, float]
) -> list[int]:
    """The same for any grid: `timesteps` and, one fewer, the `stds` of the steps between them."""
    low, high = timestep_range
    steps = zip(timesteps, stds, strict=False)
    inside = [index for index, (t, std) in enumerate(steps) if low <= t <= high and std > 0]
    if not inside:
        grid = ", ".join(f"{t:g}" for t in timesteps[:-1])
        raise UserError(
            f"timestep_range {[low, high]} holds no stochastic sampling step; steps start at {grid}"
        )
    return inside
