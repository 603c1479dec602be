"""Train and benchmark preference optimisation of text-to-image diffusion models."""

from importlib.metadata import version

__version__ = version("lpobench")
