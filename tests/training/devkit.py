"""The devkit's average precision, ported on its own: slow, and by no code of the package."""

from __future__ import annotations

import math

from latent_store.format.boxes import Boxes
from training.tasks.detections import Detections


def devkit_ap(
    truths: list[Boxes], found: list[Detections], label: int, *, use_07_metric: bool
) -> float:
    """VOCevaldet.m and VOCap.m of one class, line by line, on inclusive boxes counted from 1."""
    objects, positives = [], 0
    for truth in truths:
        mine = []
        for box, kind, difficult in zip(
            truth.boxes_N4.tolist(), truth.labels_N, truth.difficult_N, strict=True
        ):
            if kind == label:
                inclusive = [box[0] + 1, box[1] + 1, box[2], box[3]]
                mine.append({"bb": inclusive, "difficult": bool(difficult), "det": False})
                positives += not difficult
        objects.append(mine)
    lines = []
    for number, image in enumerate(found):
        for box, kind, score in zip(
            image.boxes_N4.tolist(), image.labels_N, image.scores_N.tolist(), strict=True
        ):
            if kind == label:
                inclusive = [box[0] + 1, box[1] + 1, box[2], box[3]]
                lines.append((score, number, inclusive))
    lines.sort(key=lambda line: -line[0])
    tp, fp, true, false = [], [], 0, 0
    for _, number, bb in lines:
        most, best = -math.inf, None
        for candidate in objects[number]:
            gt = candidate["bb"]
            width = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            height = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if width > 0 and height > 0:
                union = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1)
                    - width * height
                )
                if width * height / union > most:
                    most, best = width * height / union, candidate
        if most >= 0.5:
            if not best["difficult"]:
                if best["det"]:
                    false += 1
                else:
                    true += 1
                    best["det"] = True
        else:
            false += 1
        tp.append(true)
        fp.append(false)
    if positives == 0:
        return math.nan
    recall = [t / positives for t in tp]
    precision = [t / (t + f) if t + f else 0.0 for t, f in zip(tp, fp, strict=True)]
    if use_07_metric:
        total = 0.0
        # MATLAB's 0:0.1:1 is counted from both ends.
        for level in [n * 0.1 for n in range(6)] + [1 - n * 0.1 for n in range(4, -1, -1)]:
            reached = [p for r, p in zip(recall, precision, strict=True) if r >= level]
            total += max(reached, default=0.0) / 11
        return total
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    area = 0.0
    for i in range(1, len(recall)):
        if recall[i] != recall[i - 1]:
            area += (recall[i] - recall[i - 1]) * precision[i]
    return area
