"""Preference pairs: from their sources (`open_pairs`), and as latents. Torch loads on first use of the latter."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
