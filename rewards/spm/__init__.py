"""SPM, SPO's step-aware preference model (arXiv:2406.04314, sec. 3.2). Settings only: nothing here imports torch."""

from rewards.spm.config import SPMConfig, read_config
from rewards.spm.settings import SPM, SPMTraining

__all__ = ["SPM", "SPMConfig", "SPMTraining", "read_config"]
