"""`report.md`, its tables and figures, from points with chosen numbers."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from latent_store.catalogue.rankings import Agreement
from latent_store.errors import IntegrityError
from tests.latent_store.catalogue.test_rankings import make_ranking
from tests.training.made_points import (
    at_rate,
    make_detections,
    make_images,
    make_point,
    make_sample,
    measured,
    measured_ap,
)
from training.evaluation import points
from training.evaluation.comparisons import analyse
from training.reports import markdown, plots
from training.reports.charts import charts_of

SETTING = markdown.ReportSetting(store="city.zarr", dataset="cityscapes", split="val", decode="all")


def test_parts_of_the_rate_add_up_to_bytes_over_original_pixels():
    sample = make_sample(mask_bytes=24)
    point = make_point(samples=(sample, make_sample("b", pixels=400, mask_bytes=24)))
    assert point.bpp == 8 * 2 * (30 + 70 + 24) / 2000
    found = points.summary(point)
    parts = [found[f"{part}_bpp"] for part in ("hyper", "y", "mask")]
    assert sum(parts) == pytest.approx(point.bpp)
    assert found["mask_bpp"] == 8 * 48 / 2000
    assert found["flush_bpp"] == 160 / 2000


def test_points_survive_their_file(tmp_path):
    point = make_point(permuted_score=0.1)
    points.write_point(tmp_path, point)
    assert points.read_point(tmp_path, point.key) == point
    assert points.read_point(tmp_path, "another") is None
    assert [p.name for p in tmp_path.iterdir()] == [f"{point.key}.json"]


def test_points_of_detectors_survive_their_file(tmp_path):
    point = measured_ap("detector", make_detections(0.6), permuted_score=0.1)
    points.write_point(tmp_path, point)
    assert points.read_point(tmp_path, point.key) == point


def test_points_from_when_maps_were_the_only_task_are_read(tmp_path):
    path = points.write_point(tmp_path, make_point(permuted_score=0.1))
    text = path.read_text()
    for old, new in (
        ("miou", "score"),
        ("class_iou", "class_scores"),
        ("constant_miou", "constant_score"),
        ("permuted_miou", "permuted_score"),
    ):
        assert f'"{new}"' in text
        text = text.replace(f'"{new}"', f'"{old}"')
    path.write_text(text.replace(', "task": "segmentation", "more_scores": {}', ""))
    assert "task" not in path.read_text()
    assert points.read_point(tmp_path, make_point().key) == make_point(permuted_score=0.1)


def test_points_from_before_seeds_were_noted_are_read(tmp_path):
    path = points.write_point(tmp_path, make_point())
    path.write_text(path.read_text().replace(', "seed": null', ""))
    assert points.read_point(tmp_path, make_point().key) == make_point()


def test_points_of_another_version_are_measured_again(tmp_path):
    path = points.write_point(tmp_path, make_point())
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    assert points.read_point(tmp_path, make_point().key) is None


@pytest.mark.parametrize(
    "damage",
    [lambda t: t[: len(t) // 2], lambda t: t.replace("score", "scoer")],
    ids=["truncated", "edited"],
)
def test_damaged_points_are_refused(tmp_path, damage):
    path = points.write_point(tmp_path, make_point())
    path.write_text(damage(path.read_text()))
    with pytest.raises(IntegrityError, match=r"is no measured point .*; delete it to"):
        points.read_point(tmp_path, make_point().key)


def test_console_table_shows_every_network_and_part():
    dynamic = make_point(
        "dynamic", selection="dynamic", keep=None, ranking_id=None, permuted_score=0.07,
        samples=(make_sample(channels=80, mask_bytes=24), make_sample(channels=95, mask_bytes=24)),
    )  # fmt: skip
    text = markdown.console_table(analyse([dynamic, make_point(quality=2, psnr=None)]))
    lines = text.splitlines()
    assert lines[0].split() == [
        name for name in markdown.columns([dynamic]) if name not in ("95%", "steps")
    ]
    assert "87.5 (80-95)" in lines[2]
    assert "0.0700" in lines[2]
    assert "(q2)" in lines[3]
    assert len({len(line) for line in lines}) == 1


def test_console_table_leaves_out_what_is_empty_for_all():
    analysis = analyse([make_point(psnr=None), make_point("b", psnr=None, trained={"step": 7})])
    heads = markdown.console_table(analysis).splitlines()[0].split()
    assert heads[-2:] == ["GMAC", "steps"]
    assert not {"permuted", "mask", "PSNR"} & set(heads)
    assert {"permuted", "mask", "PSNR"} < set(markdown.columns(analysis.points))


@pytest.mark.parametrize(
    ("trained", "steps"),
    [
        ({}, "-"),
        ({"step": 120, "epoch": 3, "epochs": 3}, "120"),
        ({"step": 120, "epoch": 3, "epochs": 400, "max_steps": 120}, "120"),
        ({"step": 63, "epoch": 1, "epochs": 400, "max_steps": 120}, "63 of 120"),
        ({"step": 63, "epoch": 1, "epochs": 3}, "63 (1 of 3 epochs)"),
    ],
)
def test_reports_say_how_long_a_network_was_trained(tmp_path, trained, steps):
    point = make_point(trained=trained)
    points.write_point(tmp_path, point)
    assert points.read_point(tmp_path, point.key) == point
    row = markdown.networks_section(analyse([point])).rows[0]
    assert dict(zip(markdown.columns([point]), row, strict=True))["steps"] == steps


def test_savings_pair_methods_with_what_they_are_meant_to_beat():
    pixel = at_rate("pixel (trained on raw)", 770, 0.4, domain="pixel", selection="none", keep=None)
    none = at_rate("no gate", 770, 0.6, selection="none", keep=None)
    ours = at_rate("static-16 frequency", 70, 0.55)
    wang = at_rate("static-16 variance", 120, 0.5, ranking_method="variance")
    other = at_rate("static-32 variance", 170, 0.5, ranking_method="variance", keep=32)
    saved = analyse([pixel, none, ours, wang, other]).saved
    found = {(s.found.anchor, s.found.test): s.found for s in saved}
    assert set(found) == {
        (pixel.label, none.label), (pixel.label, ours.label), (pixel.label, wang.label),
        (pixel.label, other.label), (none.label, ours.label), (none.label, wang.label),
        (none.label, other.label), (wang.label, ours.label),
    }  # fmt: skip
    assert found[pixel.label, ours.label].bound.at_least == pytest.approx(1 - 100 / 800)
    assert found[none.label, ours.label].note is not None


def test_one_method_at_several_codecs_is_one_curve():
    pixel = [
        at_rate("pixel", rate, score, domain="pixel", quality=q, codec_id=f"hyperprior-{q}")
        for q, rate, score in [(1, 170, 0.40), (2, 270, 0.45), (3, 370, 0.5), (4, 570, 0.55)]
    ]
    ours = [
        at_rate("ours", rate, score, quality=q, codec_id=f"hyperprior-{q}")
        for q, rate, score in [(1, 20, 0.42), (2, 45, 0.47), (3, 70, 0.52), (4, 110, 0.57)]
    ]
    (saved,) = analyse([*pixel, *ours]).saved
    assert saved.found.saving.maximum > 0.7
    assert saved.found.bd_rate < -70
    text = markdown.markdown(analyse([*pixel, *ours]), SETTING)
    assert f"{100 * saved.found.saving.maximum:.1f} % at" in text
    assert f"{saved.found.bd_rate:+.1f} %" in text
    assert "No BD-rate" not in text
    assert "No intervals: a single image cannot be drawn in several ways." in text


def test_detectors_have_rate_ap_curves_with_bd_rate_and_intervals(tmp_path):
    rates = (80, 160, 320, 640)
    pixel, none, ours = (
        [
            measured_ap(
                label,
                make_detections(0.5 + 0.1 * q, rate=share * rate, seed=q),
                quality=q,
                codec_id=f"hyperprior-{q}",
                **changes,
            )
            for q, rate in enumerate(rates)
        ]
        for label, share, changes in (
            ("pixel (trained on raw)", 1, {"domain": "pixel", "selection": "none", "keep": None}),
            ("no gate", 1, {"selection": "none", "keep": None}),
            ("static-16", 0.5, {}),
        )
    )
    saved = {(s.found.anchor, s.found.test): s for s in analyse([*pixel, *none, *ours]).saved}
    against = saved[pixel[0].label, "static-16"]
    assert against.found.bd_rate == pytest.approx(-50, abs=15)
    assert against.found.saving.median == pytest.approx(0.5, abs=0.15)
    text = markdown.markdown(analyse([*pixel, *none, *ours]), SETTING)
    assert f"{against.found.bd_rate:+.1f} %" in text
    for part in ("# Rate and AP50 on", "## Rate saved at equal AP50", "AP50 overlap", "AP50-07"):
        assert part in text
    assert "1000 times as many of the 40 images were drawn with replacement" in text
    assert "mIoU" not in text
    charts = charts_of(ours, analyse(ours).images)
    assert plots.write_figures(charts, tmp_path) == (("rate_ap50.png", "Rate against AP50"),)
    with Image.open(tmp_path / "rate_ap50.png") as picture:
        picture.load()


def test_markdown_shows_intervals_seeds_and_differences():
    none = measured("no gate", make_images(0.7, rate=200), selection="none", keep=None)
    seeds = [
        measured("static-16 (gate)", make_images(a, rate=90, noise=s), seed=s)
        for s, a in ((1, 0.74), (2, 0.78))
    ]
    text = markdown.markdown(analyse([none, *seeds]), SETTING)
    assert "| static-16 (gate), seed 1 | 01234567 |" in text
    (saved,) = analyse([none, *seeds]).saved
    assert f"[{100 * saved.at_least.low:.1f}, {100 * saved.at_least.high:.1f}]" in text
    assert "1000 times as many of the 40 images were drawn with replacement" in text
    assert "## Seeds" in text
    (difference,) = analyse([none, *seeds]).differences
    low, high = difference.interval.low, difference.interval.high
    assert f"{difference.score:+.4f} [{low:+.4f}, {high:+.4f}] at 45 %" in text
    assert "images such intervals are too narrow" not in text
    few = [measured(p.label, p.samples[:20], selection=p.selection) for p in (none, seeds[0])]
    text = markdown.markdown(analyse(few), SETTING)
    assert "From only 20 images such intervals are too narrow." in text


def test_markdown_compares_rankings():
    halves = Agreement(spearman=0.9, kendall=0.8, shared={2: 1})
    gate = make_ranking([5, 4, 3, 2, 1], ranking_id="gate", halves=halves)
    variance = make_ranking([5, 3, 4, 4, 1], ranking_id="variance")
    foreign = make_ranking([1, 2, 3], ranking_id="foreign", codec_id="other")
    text = markdown.markdown(analyse([make_point()]), SETTING, [gate, variance, foreign, gate])
    assert "| gate | halves of its samples | codec | 0.900 | 0.800 | 2: 1 (0.8) |" in text
    assert "| gate | variance | codec | 0.667 | 0.527 | 2: 1 (0.8, undetermined) |" in text
    assert "foreign" not in text
    (first, second) = markdown.results(analyse([make_point()]), SETTING, [gate, variance])[
        "rankings"
    ]
    assert (first["against"], second["shared"]) == ("halves of its samples", {2: 1})


def test_markdown_gives_bounds_and_says_what_is_missing():
    pixel = at_rate("pixel (trained on raw)", 770, 0.4, domain="pixel", selection="none")
    text = markdown.markdown(analyse([pixel, make_point(permuted_score=0.05)]), SETTING)
    assert "| static-16 | pixel (trained on raw) | at least 81.2 % (0.5000 at 0.7500 bpp" in text
    assert "No BD-rate: pixel (trained on raw) has 1 Pareto points of 1, BD-rate needs 4" in text
    assert "Always predicting 'road', the most frequent class, gives mIoU 0.3100." in text
    assert "for 3 of 3 images (decode = all)" in text
    assert "GMAC would be pixel (trained on raw): 93.95" in text
    assert "permuted is mIoU with" in text
    assert "## Pictures" not in text


def test_no_saving_is_stated_where_one_side_learned_nothing():
    blind = at_rate("pixel (trained on raw)", 770, 0.3, domain="pixel", selection="none", keep=None)
    none = at_rate("no gate", 370, 0.4, selection="none", keep=None)
    analysis = analyse([blind, none, make_point()])
    saved = {(s.found.anchor, s.found.test): s for s in analysis.saved}
    against = saved[blind.label, "static-16"]
    assert (against.found.largest, against.maximum, against.at_least) == (None, None, None)
    assert saved["no gate", "static-16"].found.bound.at_least == pytest.approx(0.625)
    text = markdown.markdown(analysis, SETTING)
    why = "pixel (trained on raw) reaches 0.3000, no more than the 0.3100 of a prediction that"
    assert f"| static-16 | pixel (trained on raw) | no saving can be stated: {why}" in text
    assert f"Against pixel (trained on raw) no saving can be stated: {why}" in text


def test_points_that_learned_nothing_take_no_part_in_a_curve():
    pixel = [
        at_rate("pixel", rate, score, domain="pixel", quality=q, codec_id=f"hyperprior-{q}")
        for q, rate, score in [(1, 170, 0.30), (2, 370, 0.5)]
    ]
    ours = [at_rate("ours", 20, 0.32, codec_id="hyperprior-1")]
    (saved,) = analyse([*pixel, *ours]).saved
    # 0.32 lies between both points of the pixel domain, one of which means nothing.
    assert saved.found.saving is None
    assert saved.found.note == "ours reaches 0.3200 at most, pixel starts at 0.5000"


def test_the_verdict_comes_first_and_names_what_saves_most():
    pixel = at_rate("pixel (trained on raw)", 770, 0.4, domain="pixel", selection="none")
    weak, strong = at_rate("static-32", 370, 0.45, keep=32), at_rate("static-16", 70, 0.5)
    analysis = analyse([pixel, weak, strong])
    best, against, chance, _ = markdown.verdict(analysis)
    assert best == "Best mIoU: 0.5000 at 0.5000 bpp, by static-16."
    assert against == (
        "Against pixel (trained on raw), static-16 saves at least 87.5 % of the rate."
    )
    assert markdown.markdown(analysis, SETTING).split("\n\n")[1:3] == [best, against]
    assert chance.startswith("1 seed, 1 image: no intervals, as a single image")


def test_the_verdict_states_a_bound_only_where_the_images_can_tell():
    none = measured("no gate", make_images(0.7, rate=200), selection="none", keep=None)
    for accuracy, certain in ((0.705, False), (0.9, True)):
        ours = measured("static-16", make_images(accuracy, rate=90, noise=1))
        analysis = analyse([none, ours])
        (saved,), (difference,) = analysis.saved, analysis.differences
        assert saved.found.bound is not None
        low, high = difference.interval.low, difference.interval.high
        assert (low > 0) is certain
        _, against, chance, *_ = markdown.verdict(analysis)
        doubt = f"that 40 images can tell ({difference.score:+.4f} [{low:+.4f}, {high:+.4f}]) at 45"
        assert ("Against no gate, static-16 saves at least 55" in against) is certain
        assert (f"shows no difference in mIoU {doubt} % of the rate." in against) is not certain
        assert chance == (
            "1 seed, 40 images: intervals are of the choice of images; chance in training is not "
            "in them."
        )


def test_a_bound_across_codecs_that_few_draws_have_is_no_saving():
    other = "bmshj2018-hyperprior-89abcdef"
    none = measured("no gate", make_images(0.7, rate=200), selection="none", codec_id=other)
    for accuracy, certain in ((0.705, False), (0.9, True)):
        analysis = analyse([none, measured("static-16", make_images(accuracy, rate=90, noise=1))])
        (saved,) = analysis.saved
        share = saved.at_least.share
        assert (share >= 0.95) is certain
        against = markdown.verdict(analysis)[1]
        assert ("saves at least" in against) is certain
        assert (f"in only {100 * share:.0f} % of draws of the 40" in against) is not certain


def test_networks_that_learned_nothing_are_named():
    assert "No better than that" not in markdown.constant_line([make_point()])
    text = markdown.constant_line([make_point(), make_point("blind", score=0.3)])
    assert text.endswith("No better than that, so that its rates mean nothing: blind.")


def test_detectors_must_beat_the_boxes_of_another_picture_or_finding_nothing():
    good = measured_ap("good", make_detections(0.6), permuted_score=0.1)
    assert markdown.constant_line([good]) == ""
    blind = measured_ap("blind", make_detections(0.6), permuted_score=0.99)
    shut = measured_ap("shut", make_detections(0))
    text = markdown.constant_line([good, blind, shut])
    assert text == "No better than chance, so that its rates mean nothing: blind, shut."


def test_markdown_shows_pictures():
    setting = markdown.ReportSetting(
        store="s", dataset="cityscapes", split="val", decode="all", pictures=("pictures/a.png",)
    )
    assert "![pictures/a.png](pictures/a.png)" in markdown.markdown(
        analyse([make_point()]), setting
    )


def test_a_cut_through_a_tie_is_undetermined():
    points_ = [make_point(), make_point("tied", tied=7)]
    assert "16, undetermined (7 tied)" in markdown.console_table(analyse(points_))
    text = markdown.markdown(analyse(points_), SETTING)
    assert "decided by the tie-break alone" in text
    assert "tie-break" not in markdown.markdown(analyse(points_[:1]), SETTING)


def test_results_are_json_without_images():
    content = markdown.results(analyse([make_point(), make_point("b")]), SETTING)
    text = json.dumps(content, allow_nan=False)
    read = json.loads(text)
    assert read["points"][0]["bpp"] == make_point().bpp
    assert "samples" not in read["points"][0]
    assert read["points"][0]["num_samples"] == 2
    assert read["setting"]["split"] == "val"


def test_per_class_csv_leaves_absent_classes_empty():
    points_ = [make_point(), make_point("b", class_scores=(0.1, None, 0.2))]
    text = markdown.per_class_csv(analyse(points_))
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == [
        "class",
        "static-16 [bmshj2018-hyperprior-01234567]",
        "b [bmshj2018-hyperprior-01234567]",
    ]
    assert rows[1] == ["road", "0.600000", "0.100000"]
    assert rows[3] == ["car", "", "0.200000"]


def test_figures_are_pictures_and_drawings(tmp_path):
    points_ = [
        *(make_point(f"static-{n}", keep=n, score=n / 100) for n in (16, 32)),
        make_point("static-32", keep=32, seed=1, score=0.33),
        at_rate("pixel", 500, 0.3, domain="pixel", keep=None),
    ]
    folder = tmp_path / "new"
    figures = plots.write_figures(charts_of(points_, None), folder)
    names = ["rate_miou", "channels_01234567"]
    assert [name for name, _ in figures] == [f"{name}.png" for name in names]
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 800
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    assert len(list(folder.iterdir())) == 4
    (only,) = charts_of(points_[:1], None)
    assert only.name == "rate_miou"
