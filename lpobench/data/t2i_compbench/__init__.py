"""T2I-CompBench's prompts, and what each of them asks of an image.

Huang et al. 2023 (arXiv:2307.06350) and T2I-CompBench++ 2025: eight categories of 300 prompts.
"""

from lpobench.data.t2i_compbench.demands import CATEGORIES, KEY, Demand, Part
from lpobench.data.t2i_compbench.parses import Parses
from lpobench.data.t2i_compbench.prompts import ASSET, rows
from lpobench.data.t2i_compbench.reading import demand_of

__all__ = ["ASSET", "CATEGORIES", "KEY", "Demand", "Parses", "Part", "demand_of", "rows"]
