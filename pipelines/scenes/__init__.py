"""Procedural street scenes with exact labels: geometry, light and paint, the same for the same seed
everywhere, and the layouts of datasets that sets of them are written in. They never read a file;
nothing else draws pictures to learn from."""
