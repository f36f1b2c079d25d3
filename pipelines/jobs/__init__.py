"""Jobs over the shards of a store: encoding, reordering, counting, and the frame that those share
which write components. A job says what a worker makes of one shard; it never parses a dataset's
files, and holds no logic in a DoFn: what Beam runs are plain functions."""
