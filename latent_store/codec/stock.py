"""The one door to CompressAI: every name that this package takes from it.

Importing CompressAI imports torch_geometric, which calls a deprecated function of torch; its
users can do nothing about that warning, so it stays behind this door.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=FutureWarning)
    warnings.filterwarnings("ignore", message="`torch.jit.script`", category=DeprecationWarning)
    from compressai.ans import RansDecoder as RansDecoder
    from compressai.ans import RansEncoder as RansEncoder
    from compressai.layers import GDN as GDN
    from compressai.layers import ResidualBlock as ResidualBlock
    from compressai.layers import ResidualBlockUpsample as ResidualBlockUpsample
    from compressai.models import ScaleHyperprior as ScaleHyperprior
    from compressai.models.base import get_scale_table as get_scale_table
    from compressai.models.utils import remap_old_keys as remap_old_keys
    from compressai.zoo.image import model_urls as model_urls
    from compressai.zoo.pretrained import load_pretrained as load_pretrained
