"""`report.html`, without a browser: well formed, whole in itself, harmless, and true."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.training.made_points import make_detections, make_point, make_sample, measured_ap
from tests.training.reports.made_page import (
    CONFUSION,
    HARM,
    KEEPS,
    make_analysis,
    make_page,
    make_pictures,
)
from training.evaluation.comparisons import analyse
from training.reports import album as album_module
from training.reports import markdown
from training.reports.album import BUDGET, album
from training.reports.charts import charts_of
from training.reports.image_scores import image_scores, worst
from training.reports.page import inline, table_html
from training.reports.page_data import page_data
from training.reports.pictures import reduced
from training.tables import Section

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps what a page holds.

    Attributes:
        addresses: Everything that something could be asked from.
        scripts: Text of each script, by its type.
        tags: Of all elements.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.text: list[str] = []
        self._type: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [
            v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data")
        ]
        self._type = found.get("type")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._type] = data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def made() -> tuple[str, dict]:
    return make_page()


@pytest.fixture(scope="module")
def read(made: tuple[str, dict]) -> Reader:
    reader = Reader()
    reader.feed(made[0])
    reader.close()
    return reader


def test_the_page_is_well_formed_and_whole_in_itself(made, read) -> None:
    text, _ = made
    assert text.startswith("<!doctype html>")
    assert read.open == []
    assert read.addresses == ["data:,"]
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert len(text.encode()) < 5_000_000


def test_its_policy_lets_its_own_script_run_and_nothing_be_asked(made, read) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', made[0])[1]
    digest = base64.b64encode(hashlib.sha256(read.scripts[None].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy


def test_names_come_out_as_letters(made, read) -> None:
    assert read.tags.count("script") == 2
    assert "img" not in read.tags
    data = json.loads(read.scripts["application/json"])
    assert data["points"][0]["name"] == HARM
    assert "<script>document.title" not in made[0]


def test_the_data_are_the_numbers_of_the_tables(read) -> None:
    data = json.loads(read.scripts["application/json"])
    analysis = make_analysis()
    setting = markdown.ReportSetting(store="s", dataset="d", split="val", decode="all")
    results = json.loads(json.dumps(markdown.results(analysis, setting)))
    for shown, point in zip(data["points"], results["points"], strict=True):
        for name in ("bpp", "score", "class_scores", "channels_mean", "confusion", "name"):
            assert shown[name] == point[name]
    marks = {s["name"]: s["marks"] for s in data["charts"][0]["series"]}
    assert marks["no gate"][0]["x"] == results["points"][1]["bpp"]
    ends = [marks["no gate"][0][end] for end in ("low", "high")]
    assert ends == results["points"][1]["score_interval"]
    scores = [p["score"] for p in results["points"][-2:]]
    assert marks["dynamic"][0]["y"] == pytest.approx(np.mean(scores))
    assert [dot[1] for dot in marks["dynamic"][0]["dots"]] == scores
    text = " ".join(read.text)
    assert f"{results['points'][1]['score']:.4f}" in text


def test_pictures_have_their_own_bits_and_what_their_channels_decode_to(made) -> None:
    _, data = made
    family = data["families"][0]
    assert [step["n"] for step in family["steps"]] == list(KEEPS)
    for picture in data["pictures"]:
        shown = {n["point"]: n for n in picture["networks"]}
        decoded = [picture["images"][shown[s["point"]]["decoded"]] for s in family["steps"]]
        assert len(set(decoded)) == len(KEEPS)
        found = shown[family["steps"][0]["point"]]
        assert found["bpp"] == 8 * found["bytes"] / make_sample().pixels
        assert found["channels"] == KEEPS[0]
    assert [p["why"] for p in data["pictures"]] == ["sample", "worst"]


def test_flat_pictures_keep_every_colour_and_photographs_become_jpeg(made) -> None:
    _, data = made
    picture = data["pictures"][0]
    drawn = picture["images"][picture["networks"][4]["drawn"]]
    kind, _, code = drawn.partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(code))) as image:
        assert image.convert("RGB").getcolors() == [(48 * 96, (80, 80, 80))]
    assert picture["images"][picture["original"]].startswith("data:image/jpeg")


def test_large_pictures_are_made_to_fit() -> None:
    points = make_analysis().points
    shown = [("sample", picture) for picture in make_pictures(points, (350, 700))] * 3
    found = album(shown, len(shown))
    assert 0.3 * BUDGET < sum(len(image) for p in found for image in p["images"]) <= BUDGET
    assert reduced(np.zeros((700, 1400, 3), np.uint8), 140).shape == (70, 140, 3)


def test_of_more_pictures_than_fit_the_first_are_kept(monkeypatch) -> None:
    monkeypatch.setattr(album_module, "BUDGET", 25_000)
    shown = [("sample", picture) for picture in make_pictures(make_analysis().points)] * 3
    found = album(shown, len(shown))
    assert 0 < len(found) < len(shown)
    assert sum(len(image) for p in found for image in p["images"]) <= 25_000


def test_of_many_classes_only_the_best_networks_matrices_are_shown() -> None:
    names = tuple(map(str, range(200)))
    matrix = tuple((1,) * 200 for _ in names)
    many = {"class_names": names, "class_scores": (0.5,) * 200, "confusion": matrix}
    points = [make_point(f"n{i}", score=i / 10, **many) for i in range(1, 9)]
    shown = page_data(analyse(points), [])["points"]
    assert [p["confusion"] is not None for p in shown] == [False] * 3 + [True] * 5


def test_detectors_have_a_page_without_a_confusion_matrix() -> None:
    analysis = analyse([measured_ap("detector", make_detections(0.6))])
    data = page_data(analysis, charts_of(analysis.points, analysis.images))
    assert (data["metric"], data["points"][0]["confusion"]) == ("AP50", None)
    assert json.loads(json.dumps(data, allow_nan=False))["present"] == [1, 2]


def test_the_hardest_pictures_are_those_with_the_lowest_scores() -> None:
    (point, *_) = make_analysis().points
    scores_S = image_scores(point)
    sample = point.samples[5].part
    parts = (sample.hits, sample.labelled, sample.predicted)
    hits, labelled, predicted = (np.array(part[:2]) for part in parts)
    assert scores_S[5] == pytest.approx((hits / (labelled + predicted - hits)).mean())
    assert worst(scores_S, 3) == np.argsort(scores_S)[:3].tolist()
    assert worst(np.array([np.nan, 0.2, 0.1]), 3) == [2, 1]


def test_colours_tell_series_apart_and_kinds_are_the_same_everywhere() -> None:
    points = make_analysis().points
    rates, channels = charts_of(points, None)
    assert len({s.colour for s in rates.series}) == len(rates.series)
    of_kind = {s.kind: s.colour for s in rates.series}
    (dynamic,) = (s for s in channels.series if s.name == "dynamic")
    assert dynamic.colour == of_kind[dynamic.kind]
    assert points[0].confusion == CONFUSION


def test_tables_are_escaped_and_fold() -> None:
    section = Section(title="a < b", header=("x", "y"), rows=[("<i>", "1.0")], text_columns=1)
    text = table_html(section, folded=True)
    assert "<details><summary>a &lt; b</summary>" in text
    assert "<td>&lt;i&gt;</td><td class=number>1.0</td>" in text
    assert table_html(Section(title="t", header=("x",), rows=(), text_columns=1)) == ""
    assert inline("`<b>` **not** run") == "<code>&lt;b&gt;</code> <strong>not</strong> run"
