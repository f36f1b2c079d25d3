"""The basis of components, stored once beside them: codecs, teachers, rankings of channels.

Owns their identity, their bytes and tables, and the comparison of rankings. It never loads torch: a
checkpoint is bytes here, and decoding with it is the business of `codec`.
"""
