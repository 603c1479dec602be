from .policy import Policy
from .rollout import Fork, Noisy, Path, forks, paths
from .schedule import Prediction, RectifiedFlow, Schedule, VariancePreserving
from .step import Rule, StepDistribution, transition

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
    "forks",
    "paths",
    "transition",
]
