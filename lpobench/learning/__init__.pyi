from .objectives import clip_log_ratio, clipped_policy_loss, dpo_loss, gaussian_kl, log_ratio
from .preference import NonFiniteScore, RankedPairs, best_and_worst, group_advantages, min_gaps, sure_pairs
from .rows import ImagePairs, StepPairs, StepSamples

__all__ = [
    "ImagePairs",
    "NonFiniteScore",
    "RankedPairs",
    "StepPairs",
    "StepSamples",
    "best_and_worst",
    "clip_log_ratio",
    "clipped_policy_loss",
    "dpo_loss",
    "gaussian_kl",
    "group_advantages",
    "log_ratio",
    "min_gaps",
    "sure_pairs",
]
