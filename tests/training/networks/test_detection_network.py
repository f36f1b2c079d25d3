"""The detection networks: torchvision's numbers, and outputs that no other image moves."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from latent_store.errors import LatentStoreError
from training.networks.detection_network import STRIDES, DetectionTail, GridAnchors, KeyedSampler
from training.networks.network_config import NetworkConfig
from training.selection.gate import gumbel_noise
from training.tasks.detection import DetectionLoss
from training.tasks.registry import build_network
from training.trainer.initialise import load_pretrained

SMALL = {
    "task": "detection",
    "num_classes": 21,
    "backbone": "resnet18",
    "fpn_width": 16,
    "box_head_width": 32,
    "anchor_size": 8,
    "latent_channels": 24,
}
VALID = torch.tensor([[64, 128], [50, 100], [40, 128]])
TARGETS = [
    {"boxes": torch.tensor([[3.0, 5, 40, 60]]), "labels": torch.tensor([7])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": torch.tensor([[0.0, 0, 9, 8], [50, 2, 128, 40]]), "labels": torch.tensor([1, 20])},
]
KEYS = [(0, 0, row) for row in range(3)]
LOSSES = tuple(DetectionLoss.own_weights)


def make_network(**config) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(**(SMALL | config)))
    # Fresh predictors say the same of everything: let scores and boxes differ.
    nn.init.normal_(network.tail.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(network.tail.roi_heads.box_predictor.bbox_pred.weight, std=2.0)
    nn.init.normal_(network.tail.rpn.head.cls_logits.weight, std=0.5)
    return network


def latents(batch: int = 3, channels: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, 4, 8, generator=generator).mul(2).round()


def training_inputs(images: slice = slice(None)) -> dict:
    return {"valid_B2": VALID[images], "targets": TARGETS[images], "sample_keys": KEYS[images]}


class _Pyramid(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.out_channels = network.config.fpn_width

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.network.tail.pyramid(self.network.stem(x_BCHW))


def torchvisions(network: nn.Module) -> FasterRCNN:
    """The same weights in torchvision's own Faster R-CNN; the stem normalises, it must not."""
    tail, size = network.tail, network.config.anchor_size
    return FasterRCNN(
        _Pyramid(network),
        min_size=64,
        max_size=128,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        rpn_anchor_generator=AnchorGenerator(
            tuple((size * 2**n,) for n in range(5)), ((0.5, 1.0, 2.0),) * 5
        ),
        rpn_head=tail.rpn.head,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=7 * size),
        box_head=tail.roi_heads.box_head,
        box_predictor=tail.roi_heads.box_predictor,
    )


def test_detections_are_torchvisions() -> None:
    network = make_network(domain="pixel").eval()
    x_BCHW = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        ours = network(x_BCHW, valid_B2=VALID[[0, 0]])["detections"]
        theirs = torchvisions(network).eval()(list(x_BCHW))
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine["boxes"]) > 10
        for name in ("boxes", "labels", "scores"):
            torch.testing.assert_close(mine[name], other[name])


def test_an_images_losses_are_torchvisions() -> None:
    network = make_network(domain="pixel")
    x_BCHW = torch.rand(1, 3, 64, 128)
    ours = network(x_BCHW, **training_inputs(slice(1)))
    other = torchvisions(network).train()
    other.rpn.fg_bg_sampler = network.tail.rpn.fg_bg_sampler
    other.roi_heads.fg_bg_sampler = network.tail.roi_heads.fg_bg_sampler
    theirs = other(list(x_BCHW), [dict(TARGETS[0])])
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    for mine, name in zip(LOSSES, names, strict=True):
        torch.testing.assert_close(ours[mine], theirs[name][None])


@pytest.mark.parametrize("config", [{"domain": "pixel"}, {"selection": "dynamic"}, {}])
def test_an_image_is_the_same_alone_and_in_any_batch(config) -> None:
    network = make_network(**config).eval()
    pixel = network.config.domain == "pixel"
    inputs = (torch.rand(3, 3, 64, 128),) if pixel else (latents(), torch.rand(3, 24))
    with torch.no_grad():
        together = network(*inputs, valid_B2=VALID)["detections"]
        reversed_ = network(*(value.flip(0) for value in inputs), valid_B2=VALID.flip(0))
        for i in range(3):
            one = slice(i, i + 1)
            alone = network(*(value[one] for value in inputs), valid_B2=VALID[one])["detections"]
            assert len(alone[0]["boxes"]) > 10
            for other in (alone[0], reversed_["detections"][2 - i]):
                for name, value in together[i].items():
                    torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-3)


def test_detections_lie_in_the_original_picture() -> None:
    network = make_network().eval()
    with torch.no_grad():
        detections = network(latents(), valid_B2=VALID)["detections"]
    cut = 0
    for (height, width), one in zip(VALID.tolist(), detections, strict=True):
        x1, y1, x2, y2 = one["boxes"].T
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x1 < x2).all()
        assert (y1 < y2).all()
        assert x2.max() <= width
        assert y2.max() <= height
        cut += int((x2 == width).sum() + (y2 == height).sum())
        assert one["labels"].min() >= 1
        assert (one["scores"].diff() <= 0).all()
    assert cut  # the network itself does not know where the picture ends


def test_the_first_batch_does_not_fix_the_scales_of_later_ones() -> None:
    """torchvision infers them once: a picture of 34 pixels coded at 64 would halve them."""
    fresh, used = make_network().eval(), make_network().eval()
    with torch.no_grad():
        used(latents(1), valid_B2=torch.tensor([[34, 34]]))
        one, other = (n(latents(), valid_B2=VALID)["detections"] for n in (fresh, used))
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size", [(64, 128), (80, 112), (48, 16)])
def test_anchors_lie_on_the_pyramids_grid_for_every_crop(size: tuple[int, int]) -> None:
    maps = [torch.zeros(1, 1, *(-(-n // stride) for n in size)) for stride in STRIDES]
    generator = GridAnchors(tuple((8 << n,) for n in range(5)), ((1.0,),) * 5)
    (anchors_N4,) = generator(ImageList(torch.empty(0, 0, *size), [size]), maps)
    for stride, part_N4 in zip(STRIDES, anchors_N4.split([m.numel() for m in maps]), strict=True):
        middles_N2 = (part_N4[:, :2] + part_N4[:, 2:]) / 2
        rows, columns = (torch.arange(0, n, stride) for n in size)
        expected_N2 = torch.cartesian_prod(rows, columns).flip(1).float()
        torch.testing.assert_close(middles_N2, expected_N2)
        assert ((part_N4[:, 2:] - part_N4[:, :2]) == 2 * stride).all()


@pytest.mark.parametrize(
    "config",
    [
        {"selection": "none", "transform": "res"},
        {"selection": "dynamic"},
        {"selection": "static", "channels": (5, 3, 9)},
        {"selection": "any", "channels": (5, 3, 9, 1), "cuts": (2, 4)},
        {"domain": "pixel"},
    ],
    ids=["none", "dynamic", "static", "any", "pixel"],
)
def test_every_kind_of_network_trains_every_weight(config) -> None:
    network = make_network(**config)
    pixel = network.config.domain == "pixel"
    size = torch.rand(3, 3, 64, 128) if pixel else latents(3, network.config.input_channels)
    more = training_inputs()
    inputs = (size,) if pixel else (size, torch.rand(3, 24))
    if network.config.selection == "dynamic":
        more["noise_BC2"] = gumbel_noise(0, 0, [0, 1, 2], 24)
    outputs = network(*inputs, **more)
    assert "detections" not in outputs
    sum(outputs[name].sum() for name in LOSSES).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert outputs["features"].shape == (3, 64, 16, 32)


def test_an_images_losses_do_not_depend_on_its_batch() -> None:
    """So accumulated batches and ranks add up; batch norm, which sees the batch, is frozen."""
    network = make_network().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    together = network(latents(), **training_inputs())
    for i in range(3):
        one = slice(i, i + 1)
        alone = network(latents()[one], **training_inputs(one))
        for name in LOSSES:
            # A rounding error may swap two proposals, and the draw of the box heads with them.
            close = 1e-5 if name in LOSSES[:2] else 1e-2
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=close, atol=1e-5)


def test_images_without_objects_and_without_an_extent_give_finite_losses() -> None:
    network = make_network()
    empty = {**training_inputs(), "targets": [TARGETS[1]] * 3, "valid_B2": VALID * 0}
    outputs = network(latents(), **empty)
    assert outputs["objectness"].min() > 0
    assert outputs["classification"].tolist() == [0, 0, 0]  # no proposal is left
    sum(outputs[name].sum() for name in LOSSES).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        detections = network(latents(), valid_B2=VALID * 0)["detections"]
    assert [len(one["boxes"]) for one in detections] == [0, 0, 0]


def test_weights_that_are_not_finite_show_in_the_loss_and_give_no_boxes() -> None:
    network = make_network()
    nn.init.constant_(network.tail.fpn.inner_blocks[3][0].weight, torch.nan)
    outputs = network(latents(), **training_inputs())
    assert not torch.isfinite(outputs["objectness"]).any()
    with torch.no_grad():
        detections = network.eval()(latents(), valid_B2=VALID)["detections"]
    assert all(torch.isfinite(one["boxes"]).all() for one in detections)


def test_boxes_are_float32_under_autocast() -> None:
    network = make_network().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (first, *_) = network(latents(), valid_B2=VALID)["detections"]
    assert first["boxes"].dtype == torch.float32
    whole = first["boxes"].bfloat16().float()
    assert (whole != first["boxes"]).any()
    losses = make_network()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = losses(latents(), **training_inputs())
    assert all(outputs[name].dtype == torch.float32 for name in LOSSES)
    assert all(torch.isfinite(outputs[name]).all() for name in LOSSES)


def test_sampling_is_keyed_by_seed_epoch_and_row_alone() -> None:
    labels_N = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, 4000)).float()
    sampler = KeyedSampler(0, 256, 0.5)
    before = torch.get_rng_state()

    def draw(*keys: tuple[int, int, int]) -> torch.Tensor:
        sampler.keys = keys
        return torch.stack([torch.stack(part) for part in sampler([labels_N] * len(keys))])

    one = draw((0, 0, 5))
    assert torch.equal(one[:, 0], draw((0, 0, 4), (0, 0, 5))[:, 1])
    assert one.sum((1, 2)).tolist() == [128, 128]
    assert (labels_N[one[0, 0]] == 1).all()
    assert (labels_N[one[1, 0]] == 0).all()
    for other in ((1, 0, 5), (0, 1, 5), (0, 0, 6)):
        assert not torch.equal(one, draw(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_few_positives_are_all_drawn_and_negatives_fill_up() -> None:
    labels_N = torch.tensor([1.0] * 3 + [0.0] * 500 + [-1.0] * 20)
    sampler = KeyedSampler(0, 256, 0.5)
    sampler.keys = ((0, 0, 0),)
    (positive_N,), (negative_N,) = sampler([labels_N])
    assert torch.equal(torch.where(positive_N)[0], torch.arange(3))
    assert int(negative_N.sum()) == 253


def test_torchvisions_weights_give_its_detections() -> None:
    """Those of `fasterrcnn_resnet50_fpn`, which lie in files with names of before 0.13."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    theirs = FasterRCNN(backbone, 91, min_size=64, max_size=128).eval()
    nn.init.normal_(theirs.roi_heads.box_predictor.cls_score.weight, std=0.5)
    nn.init.normal_(theirs.rpn.head.cls_logits.weight, std=0.5)
    old = {
        re.sub(r"(blocks\.\d|head\.conv)(\.0)+\.", r"\1.", name): value
        for name, value in theirs.state_dict().items()
        if "num_batches" not in name
    }
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.3.bias"} <= set(old)
    shape = {"task": "detection", "domain": "pixel", "backbone": "resnet18", "anchor_size": 32}
    ours = build_network(NetworkConfig(num_classes=91, **shape)).eval()
    copied = load_pretrained(ours, old)
    assert {name for name in ours.state_dict() if "num_batches" not in name} == set(copied)
    x_BCHW = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        (mine,) = ours(x_BCHW, valid_B2=VALID[:1])["detections"]
        (other,) = theirs(list(x_BCHW))
    assert len(mine["boxes"]) > 10
    for name, value in mine.items():
        torch.testing.assert_close(value, other[name])
    # Of other classes, everything but the predictor.
    fewer = build_network(NetworkConfig(num_classes=21, **shape))
    left = set(copied) - set(load_pretrained(fewer, old))
    assert {name.rsplit(".", 2)[0] for name in left} == {"tail.roi_heads.box_predictor"}


def test_the_backbone_keeps_its_strides() -> None:
    tail = make_network().tail
    assert isinstance(tail, DetectionTail)
    shapes = [tuple(one.shape) for one in tail.pyramid(torch.zeros(1, 64, 32, 64)).values()]
    assert shapes == [(1, 16, 128 // stride, 256 // stride) for stride in STRIDES]


def test_contradictory_configs_are_refused() -> None:
    with pytest.raises(LatentStoreError, match=r"--auxiliary_head .* got --task detection"):
        build_network(NetworkConfig(task="detection", auxiliary_head=True))
    with pytest.raises(LatentStoreError, match="anchor_size must be 1 or more, got 0"):
        NetworkConfig(task="detection", anchor_size=0)
