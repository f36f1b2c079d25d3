"""A page with everything on it, of points with chosen numbers and names that mean harm."""

from __future__ import annotations

import dataclasses

import numpy as np

from latent_store.catalogue.rankings import Ranking
from tests.training.made_points import CLASSES, make_images, make_sample, measured
from training.evaluation.comparisons import Analysis, analyse
from training.evaluation.points import Point
from training.reports import markdown, page
from training.reports.album import album
from training.reports.charts import charts_of
from training.reports.page_data import page_data
from training.reports.pictures import ShownNetwork, ShownPicture

HARM = '</script><script>document.title=1</script><img src=//x.test/a onerror="a()">`&amp;**'
"""A label as nobody should choose it: it must come out as these very letters."""
KEEPS = (16, 32, 64)
CONFUSION = ((700, 290, 10), (100, 500, 0), (0, 0, 0))


def make_analysis() -> Analysis:
    """Returns one of pixels, of every channel, of static networks and of one with two seeds."""
    pixel = measured(
        HARM, make_images(0.65, rate=400), domain="pixel", selection="none", keep=None,
        confusion=CONFUSION,
    )  # fmt: skip
    none = measured("no gate", make_images(0.7, rate=300), selection="none", keep=None)
    static = [
        measured(f"static-{n} (gate)", make_images(0.6 + n / 500, rate=60 + 2 * n), keep=n)
        for n in KEEPS
    ]
    seeds = [
        measured(
            "dynamic", make_images(a, rate=90, noise=s), selection="dynamic", keep=None, seed=s
        )
        for s, a in ((1, 0.64), (2, 0.68))
    ]
    return analyse([pixel, none, *static, *seeds])


def make_rankings() -> list[Ranking]:
    """Returns a gate's and a variance's order of eight channels."""
    values = tuple(float(v) for v in (8, 7, 6, 5, 4, 3, 2, 1))
    common = {
        "codec_id": "bmshj2018-hyperprior-01234567", "order": tuple(range(8)), "cuts": (2, 4, 8),
        "score": values, "tied_at_cut": {}, "num_samples": 8, "dataset": "d", "split": "train",
    }  # fmt: skip
    counts = tuple(map(int, values))
    gate = Ranking(ranking_id="gate", method="frequency", counts=counts, **common)
    return [gate, Ranking(ranking_id="variance", method="variance", **common)]


def make_pictures(
    points: tuple[Point, ...], size: tuple[int, int] = (48, 96)
) -> list[ShownPicture]:
    """Returns two pictures whose decoded prefixes differ from N to N."""
    noise = np.random.default_rng(0)

    def picture(shade: int) -> np.ndarray:
        return noise.integers(shade, shade + 30, (*size, 3)).astype(np.uint8)

    def network(number: int, point: Point, row: int) -> ShownNetwork:
        rate = dataclasses.replace(point.samples[row].rate, channels=point.keep or 192)
        return ShownNetwork(
            point=number,
            sample=dataclasses.replace(make_sample(f"image_{row}"), rate=rate),
            score=0.1 * (number + row),
            drawn_HWC=np.full((*size, 3), 20 * number, dtype=np.uint8),
            decoded_HWC=picture(10 + 20 * number),
            partly=True,
        )

    return [
        ShownPicture(
            row=row,
            sample_id=f"image_{row}",
            original_HWC=picture(200),
            truth=[("label", np.full((*size, 3), 90, dtype=np.uint8))],
            networks=[network(number, point, row) for number, point in enumerate(points)],
        )
        for row in (3, 7)
    ]


def make_page() -> tuple[str, dict]:
    """Returns the page, and the data that it shows."""
    analysis = make_analysis()
    setting = markdown.ReportSetting(store=HARM, dataset="d", split="val", decode="all")
    savings, *others = markdown.comparisons(analysis, make_rankings())
    text = page.Page(
        title=markdown.title(analysis.points, setting),
        verdict=markdown.verdict(analysis),
        facts=[markdown.what_was_measured(analysis.points, setting)],
        first=[savings],
        tables=[markdown.networks_section(analysis), *others],
        methods=markdown.notes(analysis.points, setting),
        notes={"pictures": HARM},
    )
    shown = zip(("sample", "worst"), make_pictures(analysis.points), strict=True)
    bits = {analysis.points[0].codec_id: [float(v) for v in range(8)]}
    charts = charts_of(analysis.points, analysis.images)
    data = page_data(analysis, charts, make_rankings(), bits, album(shown, 2))
    assert len(CLASSES) == len(data["classes"])
    return page.render(text, data), data
