"""DiNa-LRM, a reward model in the policy's own transformer (arXiv:2602.11146). Settings only: no torch here."""

from rewards.dina.config import DiNaConfig, read_config
from rewards.dina.settings import DiNa, DiNaTraining

__all__ = ["DiNa", "DiNaConfig", "DiNaTraining", "read_config"]
