"""Tasks, one file each: segmentation, detection.

Owns all that depends on the task: its annotations, tail, loss, metric, drawing and words. Training
and evaluation use the same metric object. It never opens a checkpoint, runs a loop or writes a
report; a new task is one more file and a line in the registry.
"""
