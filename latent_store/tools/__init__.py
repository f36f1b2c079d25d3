"""The actions on a whole store that `latent-store` offers.

Owns the check of what lies in a store (`verify`, and of its streams `verify_streams`), taking a
sample out as a stream file, decoding to pictures, the check that decoders agree (`selfcheck`) and
one order of channels for several tasks. It builds on all other folders and none builds on it; it
never knows a layout that a component's reader does not tell it.
"""
