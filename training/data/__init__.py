"""Batches of stored samples.

Owns what a step is fed with: which rows make a batch and which channels and windows of them are
read, from any store, by workers, in an order that a run can go on with. It never knows a task, a
network or how channels were chosen: what is read of the annotations, and which channels, it is
handed as objects.
"""
