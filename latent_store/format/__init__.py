"""The format on paper: what a store holds and how it is laid out.

Owns the numbers that the format fixes, the identity of latents, samples and the plan that assigns
their rows, the arithmetic of shards and chunks, and how features and boxes are put into numbers.
It never opens an array, and knows no kind of component: those have a file each in `components`.
"""
