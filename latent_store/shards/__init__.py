"""Whole shards: what proves that they are there, and that what is read is what was written.

Owns receipts, the Parquet tables made of them, and the Zarr store that holds every piece that it
fetches to its receipt. It never knows what an array means, nor who writes it.
"""
