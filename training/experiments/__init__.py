"""Declared experiments: a grid of runs, its records and its report.

Owns the grids, the runner that makes their networks with the commands a user would type, the
committed records, and the paper's tables made of these. It never trains or measures by itself.
"""
