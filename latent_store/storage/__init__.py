"""Bytes at an address: everything below the format.

Owns URLs, atomic writes, groups and arrays of Zarr opened from metadata that was checked, seals,
leases and consolidated metadata. It never knows what the bytes mean: neither samples nor shards nor
components.
"""
