"""The grid `city256` on a machine with a GPU and without network, in a few calls of minutes.

Owns what is carried there, and the one script that does it all; see README.md beside it.
"""
