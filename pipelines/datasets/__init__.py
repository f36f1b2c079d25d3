"""Readers of datasets' files, one file a layout, found by `registry`; a reader lists the samples of
a split, reads pictures, labels and boxes, and names the flags of its own. They never write, and
know neither a store nor a network."""
