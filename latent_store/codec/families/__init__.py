"""Kinds of codec, one file each.

Owns what differs from one architecture to another and nothing else does; `registry` finds a kind by
its name, or by a checkpoint. Neither loads torch, so that a parser may list them.
"""
