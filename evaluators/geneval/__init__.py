"""GenEval: does an image show what its prompt counts, colours and places? Ghosh et al. 2023, arXiv:2310.11513."""
