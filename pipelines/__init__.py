"""Everything that touches a dataset's files or runs over a whole store: Beam jobs and readers."""
