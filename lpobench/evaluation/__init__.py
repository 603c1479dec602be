"""`lpobench eval`: a model under a protocol, scored by any evaluators, in three stages with files between.

plan.py: what will be done, and by whom (scorers.py). run.py: the table of contents. execute.py: generate and score.
aggregate.py: the record.
"""
