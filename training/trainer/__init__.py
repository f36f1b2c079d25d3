"""The training of a network: one loop for every task and selection.

Owns a run from its flags to its last checkpoint: schedule, ranks, logs, state to resume from,
checkpoints and where a network's weights start. It never compares a task's or a selection's name,
and never opens a dataset's files.
"""
