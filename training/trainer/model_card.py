"""The README that lies beside exported weights."""

from collections.abc import Mapping
from typing import Any

from training.networks.network_config import NetworkConfig
from training.tasks.base import Task
from training.tasks.registry import find_task, headline

_CARD = """\
---
library_name: latent-store
license: other
pipeline_tag: {pipeline}
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

Evaluate it with `evaluate-from-store`, or {use} a picture with `{command} --checkpoint last.pt`:
that file holds the codec's weights too. The latents must come from the codec named above.

## Evaluation

{scores}

## Limitations

It knows the scenes and the bit rate that it was trained on, and no others. The licence of the
training data may restrict the use of the weights; fill in `license` above before sharing them.

## Files

`last.pt` holds the network at the end, `best.pt` at its best validation (it may be a link to the
other), `last.safetensors` the weights of `last.pt` for other tools, unless the run had
`--no-safetensors`. `config.json` has everything that the run depended on, `log.jsonl` how it went.
Files of weights hold, as `content_sha256`, a digest over all tensors and settings too: a flipped
bit is refused when they are loaded, or `last.safetensors` with
`training.trainer.checkpoints.read_safetensors`. Files of earlier versions have none, and load as
before.
"""


def model_card(config: NetworkConfig, meta: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """Returns a model card in Markdown with YAML metadata; `scores` are the last validation's."""
    task = find_task(config.task)
    what, comes = "images (raw or decoded)", "RGB in [0, 1], sides multiples of 64"
    if config.domain == "latent":
        selection, ranked = config.channel_selection, "ranked " * bool(meta.get("ranking_id"))
        what = "the latents of a learned image codec, without decoding an image, from "
        what += selection.summary
        comes = f"{' or '.join(map(str, selection.accepts))} {ranked}channels of "
        comes += f"{config.latent_channels}, at 1/16 of the size"
    return _CARD.format(
        pipeline=task.pipeline_tag,
        use=task.purpose,
        command=task.command,
        dataset=meta.get("dataset") or "unknown",
        label=meta.get("label") or "network",
        what=f"{task.title} of {what}.",
        input=comes,
        classes=", ".join(meta.get("class_names") or ()) or config.num_classes,
        backbone=f"{task.architecture}, {config.backbone}",
        codec=meta.get("codec_id") or "none (raw images)",
        ranking=meta.get("ranking_id") or "none",
        teacher=meta.get("teacher_id") or "none",
        step=meta["step"],
        epoch=meta["epoch"],
        scores=_scores(task, scores),
    )


def _scores(task: Task, scores: Mapping[str, float]) -> str:
    if not scores:
        return "Not measured in the run."
    metric = task.metric
    lines = [f"{headline(scores)} on the validation split, at the last step.", ""]
    cuts = {n: v for n, v in scores.items() if n.startswith(f"{metric.score}_at/")}
    if cuts:
        lines[0] += f" This and {metric.class_title}s are means over the numbers of channels."
        lines += [f"| channels | {metric.title} |", "|---|---|"]
        lines += [f"| {n.split('/')[1]} | {v:.4f} |" for n, v in cuts.items()] + [""]
    lines += [f"| class | {metric.class_title} |", "|---|---|"]
    prefix = f"{metric.class_title.lower()}/"
    for name, value in scores.items():
        if name.startswith(prefix) and value == value:
            lines.append(f"| {name.removeprefix(prefix)} | {value:.4f} |")
    return "\n".join(lines)
