"""T2I-CompBench++: attributes, relations, numbers, and complex compositions.

Huang et al. 2023, arXiv:2307.06350; T2I-CompBench++ 2025.
"""
