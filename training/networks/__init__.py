"""The networks' modules: backbones, transforms, tails and how they are put together.

Owns the layers and the configuration that they depend on. It never reads a store, computes a loss
or picks a channel: tails are built by the tasks, and channels come in as a selection hands them.
"""
