"""Batches of stored samples: which rows and which windows make one, what is read of them, and work
that is done ahead of need. Loads no torch; knows no task and no network."""
