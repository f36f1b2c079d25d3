"""The README that lies beside exported weights."""

from collections.abc import Mapping
from typing import Any

from training.networks import NetworkConfig

_CARD = """\
---
library_name: latent-store
license: other
pipeline_tag: image-segmentation
tags: [learned-image-compression, coding-for-machines]
datasets: [{dataset}]
---

# {label}

{what}

| | |
|---|---|
| input | {input} |
| classes | {classes} |
| backbone | {backbone} |
| codec | {codec} |
| ranking | {ranking} |
| teacher | {teacher} |
| trained | {step} steps, {epoch} epochs |

## Intended use

Evaluate it with `evaluate-from-store`, or segment a picture with `segment --checkpoint last.pt`:
that file holds the codec's weights too. The latents must come from the codec named above.

## Evaluation

{scores}

## Limitations

It knows the scenes and the bit rate that it was trained on, and no others. The licence of the
training data may restrict the use of the weights; fill in `license` above before sharing them.

## Files

`last.pt` and `last.safetensors` hold the same weights, `config.json` everything that the run
depended on, `log.jsonl` how it went.
"""


def model_card(config: NetworkConfig, meta: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """Returns a model card in Markdown with YAML metadata.

    Args:
        config: of the network.
        meta: of its checkpoint, see `LoadedNetwork`.
        scores: the last validation; empty without one.
    """
    return _CARD.format(
        dataset=meta.get("dataset") or "unknown",
        label=meta.get("label") or "network",
        what=_what(config),
        input=_input(config),
        classes=", ".join(meta.get("class_names") or ()) or config.num_classes,
        backbone=f"DeepLab v3, {config.backbone}",
        codec=meta.get("codec_id") or "none (raw images)",
        ranking=meta.get("ranking_id") or "none",
        teacher=meta.get("teacher_id") or "none",
        step=meta["step"],
        epoch=meta["epoch"],
        scores=_scores(scores),
    )


def _what(config: NetworkConfig) -> str:
    if config.domain == "pixel":
        return "Semantic segmentation of images (raw or decoded)."
    selection = {
        "none": "all channels",
        "dynamic": "the channels that its gate keeps in each image",
        "static": "a fixed subset of the channels",
        "any": "the first of the ranked channels, as many of them as come",
    }
    return (
        "Semantic segmentation of the latents of a learned image codec, without decoding an "
        f"image, from {selection[config.selection]}."
    )


def _input(config: NetworkConfig) -> str:
    if config.domain == "pixel":
        return "RGB in [0, 1], sides multiples of 64"
    counts = " or ".join(map(str, config.cuts or (config.input_channels,)))
    which = "ranked channels" if config.channels else "channels"
    return f"{counts} {which} of {config.latent_channels}, at 1/16 of the size"


def _scores(scores: Mapping[str, float]) -> str:
    if not scores:
        return "Not measured in the run."
    lines = [f"mIoU {scores['miou']:.4f} on the validation split, at the last step.", ""]
    cuts = {n: v for n, v in scores.items() if n.startswith("miou_at/")}
    if cuts:
        lines[0] += " This and IoUs are means over the numbers of channels."
        lines += ["| channels | mIoU |", "|---|---|"]
        lines += [f"| {n.removeprefix('miou_at/')} | {v:.4f} |" for n, v in cuts.items()] + [""]
    lines += ["| class | IoU |", "|---|---|"]
    for name, value in scores.items():
        if name.startswith("iou/") and value == value:
            lines.append(f"| {name.removeprefix('iou/')} | {value:.4f} |")
    return "\n".join(lines)
