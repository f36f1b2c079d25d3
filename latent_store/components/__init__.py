"""The parts of a split: labels, boxes, a teacher's features, latents, a ranking's copy.

A kind of component is one file, the spec of its arrays beside the reader of them, and `registry`
finds it. Owns their groups on disk, the writer of whole shards, and `finalize`, which closes a
component. It never compares a kind's name outside of its file, and opens no split as a whole.
"""
