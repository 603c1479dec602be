"""LRM, the latent reward model of LPO (arXiv:2502.01051, sec. 4.1). Settings only: nothing here imports torch."""

from rewards.lrm.config import LRMConfig, read_config
from rewards.lrm.settings import LRM, LRMTraining

__all__ = ["LRM", "LRMConfig", "LRMTraining", "read_config"]
