"""The loss: its parts, what is left out, and that split steps give the whole step's gradient."""

import pytest
import torch
from torch.nn import functional as F

from training.tasks.annotations import PixelLabels
from training.tasks.losses import Counts, cell_mask
from training.tasks.segmentation import SegmentationLoss


def count(batch: dict) -> Counts:
    """What a batch's sums are divided by."""
    cells = int(cell_mask(batch).sum()) if "features_BCHW" in batch else 0
    labels = PixelLabels().count(batch)
    return Counts(labels=labels, cells=cells, samples=len(batch["labels_BHW"]))


def make_batch(size: int = 2, seed: int = 0) -> tuple[dict, dict]:
    torch.manual_seed(seed)
    labels_BHW = torch.randint(0, 5, (size, 32, 32))
    labels_BHW[:, :4] = 255
    batch = {
        "labels_BHW": labels_BHW,
        "features_BCHW": torch.rand(size, 6, 8, 8),
        "valid_B2": torch.tensor([[32, 32], [17, 8]])[:size],
        "channel_bits_BC": torch.rand(size, 7) * 100,
        "pixels_B": torch.full((size,), 1000.0),
    }
    outputs = {
        "logits": torch.randn(size, 5, 32, 32, requires_grad=True),
        "features": torch.randn(size, 6, 8, 8, requires_grad=True),
        "gate": torch.randint(0, 2, (size, 7)).float().requires_grad_(),
    }
    return outputs, batch


def test_equation_three() -> None:
    outputs, batch = make_batch()
    parts = SegmentationLoss(lambda_kd=0.5, rate_weight=2.0)(outputs, batch, count(batch))
    expected = F.cross_entropy(outputs["logits"], batch["labels_BHW"], ignore_index=255)
    torch.testing.assert_close(parts["cross_entropy"], expected)
    mask = cell_mask(batch)[:, None].expand(-1, 6, -1, -1)
    error = (outputs["features"] - batch["features_BCHW"]).square()[mask].mean()
    torch.testing.assert_close(parts["distillation"], error)
    rate = ((outputs["gate"] * batch["channel_bits_BC"]).sum(1) / 1000).mean()
    torch.testing.assert_close(parts["rate"], rate)
    torch.testing.assert_close(parts["loss"], expected + 0.5 * error + 2 * rate)


def test_only_cells_of_the_original_image_are_distilled() -> None:
    _, batch = make_batch()
    mask_BHW = cell_mask(batch)
    assert mask_BHW[0].all()
    assert mask_BHW[1, :5, :2].all()  # 17 pixels touch 5 cells of 4, 8 pixels 2
    assert int(mask_BHW[1].sum()) == 10


def test_weights_of_zero_leave_parts_out_even_if_they_are_not_finite() -> None:
    outputs, batch = make_batch()
    batch["features_BCHW"][0, 0, 0, 0] = torch.inf
    batch["channel_bits_BC"][0, 0] = torch.inf
    parts = SegmentationLoss(lambda_kd=0.0, rate_weight=0.0)(outputs, batch, count(batch))
    assert torch.isfinite(parts["loss"])
    assert "distillation" not in parts


def test_a_batch_without_labels_gives_no_nan() -> None:
    outputs, batch = make_batch()
    batch["labels_BHW"].fill_(255)
    del batch["features_BCHW"], outputs["gate"]
    parts = SegmentationLoss()(outputs, batch, count(batch))
    assert parts["loss"].item() == 0
    parts["loss"].backward()
    assert torch.equal(outputs["logits"].grad, torch.zeros_like(outputs["logits"]))


def test_a_step_in_pieces_has_the_gradient_of_the_whole() -> None:
    outputs, batch = make_batch()
    batch["labels_BHW"][0, :20] = 255  # unequal counts: means of means would differ
    loss = SegmentationLoss(rate_weight=1.0)
    whole = loss(outputs, batch, count(batch))["loss"]
    whole.backward()
    expected = {name: value.grad.clone() for name, value in outputs.items()}
    for value in outputs.values():
        value.grad = None
    pieces = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(2)]
    counts = count(pieces[0]) + count(pieces[1])
    assert counts == count(batch)
    total = 0.0
    for i, piece in enumerate(pieces):
        part = {name: value[i : i + 1] for name, value in outputs.items()}
        share = loss(part, piece, counts)["loss"]
        share.backward()
        total += share.item()
    assert total == pytest.approx(whole.item(), rel=1e-6)
    for name, value in outputs.items():
        torch.testing.assert_close(value.grad, expected[name])


def test_the_auxiliary_head_weighs_half() -> None:
    outputs, batch = make_batch()
    outputs["auxiliary_logits"] = outputs["logits"].detach().clone()
    counts = count(batch)
    parts = SegmentationLoss(lambda_kd=0)(outputs, batch, counts)
    torch.testing.assert_close(parts["loss"], 1.5 * parts["cross_entropy"])


def test_counts_add() -> None:
    one, two = Counts(labels=1, cells=2, samples=3), Counts(labels=10, cells=20, samples=30)
    assert one + two == Counts(labels=11, cells=22, samples=33)
