"""Ablations: one thing varied, every value a run of its own, all else shared. No torch."""
