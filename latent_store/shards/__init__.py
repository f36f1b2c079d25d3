"""Whole shards: what proves that they are there, and that what is read is what was written.

Owns receipts, the Parquet tables made of them, the reader of shards, and a Zarr store for other
readers; one judge holds what both fetch to the receipts. It never knows what an array means, nor
who writes it.
"""
