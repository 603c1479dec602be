from .chains import chains
from .plain import at_eta_0
from .policy import Policy
from .rollout import Fork, Noisy, Path, forks, paths
from .schedule import Prediction, RectifiedFlow, Schedule, VariancePreserving
from .step import Rule, StepDistribution, transition
from .visits import Visit, visits
from .window import steps_inside, stochastic_steps

__all__ = [
    "Fork",
    "Noisy",
    "Path",
    "Policy",
    "Prediction",
    "RectifiedFlow",
    "Rule",
    "Schedule",
    "StepDistribution",
    "VariancePreserving",
    "Visit",
    "at_eta_0",
    "chains",
    "forks",
    "paths",
    "steps_inside",
    "stochastic_steps",
    "transition",
    "visits",
]
