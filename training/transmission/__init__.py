"""A camera and a server: a picture becomes a stream file, a stream file a result.

Owns what is done behind a checkpoint outside of training: the two sides, the network's outputs
from stored or received latents, and their times. It never imports the evaluation, so that
`segment` on a camera stays small.
"""
