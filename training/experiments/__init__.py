"""Declared experiments: grids of runs, what each left, and the reports made of them."""
