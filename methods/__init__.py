"""Training methods. Each file is one settings class: its fields are the knobs, `collect` and `loss` the
algorithm.
"""
