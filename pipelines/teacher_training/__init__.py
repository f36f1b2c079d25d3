"""The training of teachers on raw pictures: its flags, and the work."""
