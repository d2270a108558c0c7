"""Folding anyone's model: its tables are found, planned together under one budget, and replaced by drop-ins.

`finding.py` says what is a table and what is left alone, `planning.py` what each table gets, `replacing.py` does it and
undoes it, `outcome.py` is the report, `stale.py` notices optimisers that were made too early, `pretrained.py` writes
the model to a folder and reads it back.
"""
