"""Draws of a training: how much is kept, noise and samples; all pure.

Everything depends on (seed, epoch) and rows only, as the order and the crops of batches do
(`latent_store.batches.sampling`).
"""

from collections.abc import Sequence

import numpy as np

# First in every generator's key, so that no two uses of randomness share a stream; 1 and 2 are
# those of the batches.
NOISE_KEY, CUT_KEY, SAMPLE_KEY = 3, 4, 5


def draw_cut(seed: int, epoch: int, rows: Sequence[int], cuts: Sequence[int]) -> int:
    """Returns how many ranked channels a batch is trained with: one of `cuts`, equally likely.

    All rows of a batch get the same one, so that batch norm sees a whole batch of one distribution
    (see `training.selection.cut_norm`). The batch's first row keys it: which rows meet in a batch
    is random and new in every epoch, so each row meets every cut, as if it drew its own.
    """
    rng = np.random.default_rng((CUT_KEY, seed, epoch, int(rows[0])))
    return int(rng.choice(cuts))
