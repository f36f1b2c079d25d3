"""The evaluation: networks measured on a split, and compared.

Owns points (one network, one codec, one split, with every image's bytes and result) and the
methods, savings and intervals made of them. It never trains, and scores with the tasks' metrics
alone.
"""
