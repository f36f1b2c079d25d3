"""The evaluation: networks measured on a split, and compared.

Owns points (one network, one codec, one split, with every image's bytes and result), the methods,
savings and intervals made of them, the report and its figures. It never trains, and scores with
the tasks' metrics alone.
"""
