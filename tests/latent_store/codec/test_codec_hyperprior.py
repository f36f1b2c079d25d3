"""The codec against unmodified CompressAI in float64, and against everything that could move it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_store.codec import (
    Codec,
    channel_bits,
    codec_from_bytes,
    encode_y,
    encode_z,
    hyper_bits,
    image_to_tensor,
    load_codec,
    pad_image,
    read_image,
)
from latent_store.codec.checkpoints import DEMO_FOLDER
from latent_store.codec.hyperprior import scale_indexes
from latent_store.codec.numerics import exact_float32, torch_threads
from latent_store.codec.stock import MeanScaleHyperprior, ScaleHyperprior, get_scale_table
from latent_store.errors import LatentStoreError
from tests.latent_store.codec.made_codec import (
    CODECS,
    PICTURES,
    STOCK,
    make_model,
    random_latents,
    save,
)


@pytest.fixture(scope="module", params=list(STOCK))
def checkpoint(request: pytest.FixtureRequest) -> bytes:
    """The checkpoint file of a made model of each kind."""
    return save(make_model(architecture=request.param).state_dict())


@pytest.fixture(scope="module")
def codec(checkpoint: bytes) -> Codec:
    return codec_from_bytes(checkpoint)


@pytest.fixture(scope="module")
def stock(codec: Codec) -> ScaleHyperprior:
    return unmodified(codec)


def unmodified(codec: Codec) -> ScaleHyperprior:
    """CompressAI's model of a codec, in float64."""
    state = torch.load(io.BytesIO(codec.checkpoint_bytes), weights_only=True)
    return STOCK[codec.spec.architecture].from_state_dict(state).double().eval()


def scales_and_means(stock: ScaleHyperprior, z_hat: Tensor) -> tuple[Tensor, Tensor | None]:
    parameters = stock.h_s(z_hat)
    has_means = isinstance(stock, MeanScaleHyperprior)
    return parameters.chunk(2, 1) if has_means else (parameters, None)


def stock_y_hat(
    stock: ScaleHyperprior, y: bytes, z: bytes, shape: tuple[int, int]
) -> tuple[Tensor, np.ndarray]:
    """The lines of `decompress` before g_s: ŷ float64 [1, M, 4h, 4w], and symbols without means."""
    z_hat = stock.entropy_bottleneck.decompress([z], shape)
    scales, means = scales_and_means(stock, z_hat)
    indexes = stock.gaussian_conditional.build_indexes(scales)
    y_hat = stock.gaussian_conditional.decompress([y], indexes, z_hat.dtype, means)
    symbols = stock.gaussian_conditional.decompress([y], indexes, z_hat.dtype)
    return y_hat, symbols[0].numpy()


def assert_same_y_hat(codec: Codec, stock_y_hat: Tensor, y_hat: np.ndarray) -> None:
    """CompressAI's ŷ is ours where every mean is 0, else within half a step of it."""
    assert stock_y_hat.dtype == torch.float64
    steps = codec.spec.y_hat_steps
    most = 0 if steps == 1 else (1 + 1e-9) / (2 * steps)
    assert np.abs(stock_y_hat[0].numpy() - y_hat).max() <= most
    assert (y_hat * steps == np.rint(y_hat * steps)).all()


@torch.no_grad()
def test_unmodified_compressai_decodes_our_strings(
    codec: Codec, stock: ScaleHyperprior, hyper_symbols: Callable
) -> None:
    z_symbols = hyper_symbols(1, 2, 3)
    indexes = codec.indexes(z_symbols)[0].numpy()
    symbols, _ = random_latents(4, *indexes.shape)
    y, z = encode_y(codec.tables, symbols, indexes), encode_z(codec.tables, z_symbols[0])
    theirs, their_symbols = stock_y_hat(stock, y, z, (2, 3))
    np.testing.assert_array_equal(their_symbols, symbols)
    gaussians = codec.gaussians(z_symbols[0].numpy())
    y_hat = gaussians.y_hat(symbols)
    assert_same_y_hat(codec, theirs, y_hat)
    np.testing.assert_array_equal(gaussians.symbols(y_hat), symbols)
    some = [7, 2, 100]
    np.testing.assert_array_equal(gaussians.y_hat(symbols[some], some), y_hat[some])
    np.testing.assert_array_equal(gaussians.symbols(y_hat[some], some), symbols[some])


@torch.no_grad()
def test_x_hat_is_that_of_the_float64_model(
    codec: Codec, stock: ScaleHyperprior, hyper_symbols: Callable
) -> None:
    z_symbols = hyper_symbols(1)
    indexes = codec.indexes(z_symbols)[0].numpy()
    symbols = np.random.default_rng(4).integers(-1, 2, indexes.shape, dtype=np.int32)
    y, z = encode_y(codec.tables, symbols, indexes), encode_z(codec.tables, z_symbols[0])
    expected = stock.decompress([[y], [z]], (1, 2))["x_hat"]
    x_hat = codec.reconstruct(stock_y_hat(stock, y, z, (1, 2))[0])
    assert x_hat.dtype == torch.float32
    assert x_hat.shape == (1, 3, 64, 128)
    assert expected.std() > 0.02
    assert (x_hat.clamp(0, 1) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_indexes_are_those_of_the_float64_model(
    codec: Codec, stock: ScaleHyperprior, hyper_symbols: Callable
) -> None:
    z_symbols = hyper_symbols(4, 2, 2)
    z_hat = z_symbols + stock.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    scales, means = scales_and_means(stock, z_hat)
    expected = stock.gaussian_conditional.build_indexes(scales)
    indexes = codec.indexes(z_symbols)
    assert indexes.dtype == torch.uint8
    assert torch.equal(indexes.int(), expected)
    assert len(indexes.unique()) > 40
    found = [codec.gaussians(z_NHW.numpy()).means_CHW for z_NHW in z_symbols]
    if means is None:
        assert found == [None] * 4
    else:
        rounded = (means * 32).round() / 32
        np.testing.assert_array_equal(np.stack(found), rounded.numpy())
        assert means.std() > 1


def test_indexes_at_every_edge_of_the_table(codec: Codec, stock: ScaleHyperprior) -> None:
    """The float32 buffers widened, as `.double()` widens them, up to the last bit."""
    table = get_scale_table().double()
    steps = [torch.nextafter(table, table.new_tensor(end)) for end in (0.0, 1e9)]
    extra = torch.tensor([0.0, -1.0, 0.11, float(np.float32(0.11)), 0.1099999, 300.0, 1e-9])
    scales = torch.cat([table, *steps, extra.double(), torch.tensor([0.11], dtype=torch.float64)])
    expected = stock.gaussian_conditional.build_indexes(scales)
    widened = torch.tensor(codec.tables.scale_table).double()
    bound = torch.tensor(codec.tables.scale_bound).double()
    assert torch.equal(scale_indexes(scales, widened, bound).int(), expected)
    # What a bound computed in float64 would do: no index 0 is left.
    recomputed = torch.tensor([0.11], dtype=torch.float64)
    assert int(scale_indexes(scales, widened, bound).min()) == 0
    assert int(scale_indexes(scales, widened, recomputed).min()) == 1


def test_gaussians_do_not_depend_on_threads_layout_or_batch(
    codec: Codec, hyper_symbols: Callable
) -> None:
    z_symbols = hyper_symbols(4, 3, 5)
    with torch_threads(1):
        means = codec.gaussians(z_symbols[1].numpy()).means_CHW
        one = codec.indexes(z_symbols)
        singles = torch.cat([codec.indexes(z_symbols[i : i + 1]) for i in range(4)])
        layout = codec.indexes(z_symbols.contiguous(memory_format=torch.channels_last))
    with torch_threads(2):
        two = codec.indexes(z_symbols.long())
        np.testing.assert_equal(codec.gaussians(z_symbols[1].numpy()).means_CHW, means)
    for other in (singles, layout, two):
        assert torch.equal(one, other)
    assert one.is_contiguous()


@pytest.mark.parametrize("channels", [[], [7], [191, 0, 5], range(192)])
def test_gaussians_of_some_channels_are_those_of_all(
    codec: Codec, hyper_symbols: Callable, channels: Sequence[int]
) -> None:
    z_symbols = hyper_symbols(1, 3, 5)[0].numpy()
    every, some = codec.gaussians(z_symbols), codec.gaussians(z_symbols, channels)
    np.testing.assert_array_equal(some.indexes_CHW, every.indexes_CHW[list(channels)])
    if every.means_CHW is None:
        assert some.means_CHW is None
    else:
        np.testing.assert_array_equal(some.means_CHW, every.means_CHW[list(channels)])


def test_gaussians_of_no_channel_of_the_codec_are_refused(
    codec: Codec, hyper_symbols: Callable
) -> None:
    z_symbols = hyper_symbols(1)[0].numpy()
    for channels in ([192], [-1], [3, 3]):
        with pytest.raises(LatentStoreError, match="channel"):
            codec.gaussians(z_symbols, channels)


@torch.no_grad()
def test_strings_are_those_of_the_stock_model(
    codec: Codec, stock: ScaleHyperprior, picture: Callable
) -> None:
    x = image_to_tensor(pad_image(picture())) * 40  # fresh weights alone round everything to 0
    latents = codec.encode(x)
    assert latents.y_hat_BCHW.shape == latents.indexes_BCHW.shape == (1, 192, 8, 12)
    assert latents.z_symbols_BNHW.shape == (1, 128, 2, 3)
    assert latents.symbols_BCHW.dtype == latents.z_symbols_BNHW.dtype == torch.int32
    indexes, symbols = latents.indexes_BCHW[0].numpy(), latents.symbols_BCHW[0].numpy()
    z_symbols = latents.z_symbols_BNHW[0].numpy()
    np.testing.assert_array_equal(indexes, codec.gaussians(z_symbols).indexes_CHW)
    y, z = encode_y(codec.tables, symbols, indexes), encode_z(codec.tables, z_symbols)
    assert stock.compress(x.double())["strings"] == [[y], [z]]
    assert len(np.unique(symbols)) > 2
    y_hat = latents.y_hat_BCHW[0].numpy()
    np.testing.assert_array_equal(codec.gaussians(z_symbols).y_hat(symbols), y_hat)
    # And is what was quantised, as near as rounding it, and its mean, leaves it.
    steps = codec.spec.y_hat_steps
    most = 0.5 if steps == 1 else 0.5 + 0.5 / steps
    assert np.abs(stock.g_a(x.double())[0].numpy() - y_hat).max() < most + 1e-4


@pytest.mark.skipif(not list(DEMO_FOLDER.glob("*.pth.tar")), reason="no demo codec packaged")
@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_are_normalised_as_stock_layers_normalise(picture: Callable, threads: int) -> None:
    """Several tiles with a rest: ŷ up to ties, of which 1 in 100,000 is allowed, and x̂."""
    codec = load_codec(demo=True)
    plain = copy.deepcopy(codec.model)
    for layer in [*plain.g_a, *plain.g_s]:
        vars(layer).pop("forward", None)
    picture_BCHW = image_to_tensor(pad_image(picture(190, 250)))
    with torch_threads(threads), torch.no_grad():
        y_hat = codec.encode(picture_BCHW).y_hat_BCHW
        expected = plain.g_a(picture_BCHW).round()
        assert int((y_hat != expected).sum()) <= expected.numel() // 100_000
        assert len(expected.unique()) > 2
        x_hat = codec.reconstruct(y_hat)
        torch.testing.assert_close(x_hat, plain.g_s(y_hat.float()), rtol=1e-5, atol=1e-6)


def test_gradients_pass_through_the_stock_layers(codec: Codec) -> None:
    y_hat = torch.rand(1, 192, 4, 4, requires_grad=True)
    codec.model.g_s(y_hat).sum().backward()
    assert y_hat.grad is not None
    assert bool(y_hat.grad.any())


def test_autocast_and_reduced_precision_stay_outside(codec: Codec, picture: Callable) -> None:
    x = image_to_tensor(pad_image(picture(64, 64)))
    conv, product = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    alone = codec.encode(x * 40)
    before = conv.fp32_precision, product.fp32_precision
    conv.fp32_precision = product.fp32_precision = "bf16"
    seen = []
    hook = codec.model.g_a[0].register_forward_hook(
        lambda *_: seen.append((conv.fp32_precision, product.fp32_precision))
    )
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = codec.encode(x * 40)
            x_hat = codec.reconstruct(inside.y_hat_BCHW)
        assert (conv.fp32_precision, product.fp32_precision) == ("bf16", "bf16")
    finally:
        hook.remove()
        conv.fp32_precision, product.fp32_precision = before
    # Not every processor has the kernels whose results would differ.
    assert seen == [("ieee", "ieee")]
    assert torch.equal(alone.y_hat_BCHW, inside.y_hat_BCHW)
    assert torch.equal(alone.z_symbols_BNHW, inside.z_symbols_BNHW)
    assert torch.equal(codec.reconstruct(alone.y_hat_BCHW), x_hat)
    before = torch.backends.cudnn.conv.fp32_precision
    with exact_float32(torch.device("cpu")):
        # Another thread may train on a GPU meanwhile.
        assert torch.backends.cudnn.conv.fp32_precision == before


def test_nothing_learns_but_results_may_be_learned_from(codec: Codec) -> None:
    y_hat = torch.zeros(1, 192, 4, 4, dtype=torch.int16)
    x_hat = codec.reconstruct(y_hat)
    assert not x_hat.requires_grad
    assert not any(p.requires_grad for p in codec.model.parameters())
    assert not codec.model.training
    weight = torch.ones(3, 3, 1, 1, requires_grad=True)
    torch.nn.functional.conv2d(x_hat, weight).sum().backward()
    assert weight.grad is not None


def test_a_codec_pickles_as_its_checkpoint(codec: Codec, hyper_symbols: Callable) -> None:
    data = pickle.dumps(codec.to("cpu"))
    assert len(data) < len(codec.checkpoint_bytes) + 2000
    again = pickle.loads(data)
    assert again.spec == codec.spec
    z_symbols = hyper_symbols(1)
    assert torch.equal(again.indexes(z_symbols), codec.indexes(z_symbols))
    assert repr(again) == f"Codec('{codec.spec.codec_id}', device='cpu')"


def test_loading_does_not_move_the_seed(checkpoint: bytes) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    codec_from_bytes(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 64, 64), r"pictures must be float32 \[B, 3, H, W\] in \[0, 1\], got"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"got torch.uint8 \(1, 3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 100), "a picture of 64x100 cannot be coded: sides must be mul"),
        (torch.zeros(1, 3, 0, 64), "a picture of 0x64 cannot be coded"),
    ],
)
def test_pictures_that_cannot_be_coded(codec: Codec, x: Tensor, message: str) -> None:
    with pytest.raises(LatentStoreError, match=message):
        codec.encode(x)


def test_latents_of_another_codec_are_refused(codec: Codec) -> None:
    with pytest.raises(
        LatentStoreError, match=rf"ẑ has shape \(1, 64, 1, 1\), {codec.spec.codec_id} takes"
    ):
        codec.indexes(torch.zeros(1, 64, 1, 1, dtype=torch.int32))
    with pytest.raises(
        LatentStoreError, match=rf"ŷ has shape \(192, 4, 4\), {codec.spec.codec_id} takes"
    ):
        codec.reconstruct(torch.zeros(192, 4, 4))


@torch.no_grad()
def assert_stock_decodes(codec: Codec, image: np.ndarray) -> None:
    """Encodes a picture, and decodes its strings with the unmodified model in float64."""
    stock = unmodified(codec)
    latents = codec.encode(image_to_tensor(pad_image(image)))
    symbols, z_symbols = latents.symbols_BCHW[0].numpy(), latents.z_symbols_BNHW[0].numpy()
    indexes = latents.indexes_BCHW[0].numpy()
    y, z = encode_y(codec.tables, symbols, indexes), encode_z(codec.tables, z_symbols)
    shape = z_symbols.shape[1:]
    assert_same_y_hat(codec, stock_y_hat(stock, y, z, shape)[0], latents.y_hat_BCHW[0].numpy())
    x_hat = codec.reconstruct(latents.y_hat_BCHW)
    expected = stock.decompress([[y], [z]], shape)["x_hat"]
    assert (x_hat.clamp(0, 1) - expected).abs().max() < 1e-5
    for data, bits in (
        (y, channel_bits(codec.tables, symbols, indexes).sum()),
        (z, hyper_bits(codec.tables, z_symbols)),
    ):
        assert 32 <= 8 * len(data) - bits <= 64


@pytest.mark.skipif(not list(DEMO_FOLDER.glob("*.pth.tar")), reason="no demo codec packaged")
def test_the_demo_codec_on_a_made_picture(picture: Callable) -> None:
    assert_stock_decodes(load_codec(demo=True), picture())


CHECKPOINTS = sorted(CODECS.glob("*.pth.tar"))


@pytest.mark.skipif(not CHECKPOINTS or not PICTURES.exists(), reason="no ../shared here")
@pytest.mark.parametrize("path", CHECKPOINTS[::3], ids=lambda path: path.name)
def test_real_codecs_on_a_real_picture(path: Path) -> None:
    first = min(PICTURES.glob("leftImg8bit/val/*/*.png"))
    assert_stock_decodes(load_codec(checkpoint=path), read_image(first))
