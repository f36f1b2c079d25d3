"""A store as people look at it: in words, as xarray and Dask, in statistics of its channels.

Owns lazy views, which check what they read as the readers do, on the workers of a cluster too, and
summaries. It never writes, and loads neither torch nor a codec.
"""
