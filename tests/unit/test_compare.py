"""The parts of `vidsr compare`: page, content policy, escaping, report figures, sheet, choice of the part."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import inspect
import json
import re
from fractions import Fraction
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vidsr
from vidsr.cli.compare import compare as command
from vidsr.comparison.compare import MAX_PAGE_SECONDS, PAGE_SECONDS, CompareTargets, choose_part, compare
from vidsr.comparison.faces import FacePlace, crop_side, cut_out
from vidsr.comparison.figures import read_report, visible_text
from vidsr.comparison.inputs import Input, Moment, same_size
from vidsr.comparison.page import PageContent, PageFace, PageInput, PagePart, build_page
from vidsr.comparison.sheet import GAP, Sheet
from vidsr.config import CompareConfig, InputConfig
from vidsr.errors import InputError, OutputError, UsageError
from vidsr.faces.detector import View
from vidsr.pipeline.report import write_reports
from vidsr.types import (
    Color,
    Damage,
    DegradationLevels,
    FaceTrack,
    RunReport,
    SceneDegradation,
    TrackReport,
    VideoInfo,
)
from vidsr.video.probe import Source

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202egpj.\x1b[2J{{data}}"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """The elements of a page, and the texts of scripts and styles."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = tag, dict(attrs)

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.raw.append((*self._open, data))
            self._open = None


def content(label: str = "a.mp4", **changes: Any) -> PageContent:
    inputs = (
        PageInput(label, label, (4, 2), ("4 × 2", label), PNG, b"first clip"),
        PageInput("b.mp4", "b.mp4", (8, 4), ("8 × 4", "h264"), PNG, b"second clip"),
    )
    plain = PageContent(
        inputs=inputs, size=(8, 4), ticks=90_000, times=(0, 3600, 7200), seconds=(0.0, 0.04),
        parts=(PagePart(label, 0, 2),), faces=(PageFace(1, 0.5, 0.5, 0.1, (PNG, PNG)),), notes=(label,),
        columns=("input", "size", label),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("label", ["a.mp4", HOSTILE])
def test_the_policy_allows_only_what_the_page_holds(label: str) -> None:
    page = Page(build_page(content(label)))
    policy = next(each["content"] for tag, each in page.elements if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and not re.search("unsafe|http|\\*", policy)
    assert (rules["img-src"], rules["media-src"]) == ("data: blob:", "blob:")
    code = [text for tag, each, text in page.raw if tag == "script" and "type" not in each]
    styles = [text for tag, _, text in page.raw if tag == "style"]
    for name, texts in (("script-src", code), ("style-src", styles)):
        assert len(texts) == 1
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()}'"


@pytest.mark.parametrize("label", ["a.mp4", HOSTILE])
def test_no_element_runs_or_loads_anything(label: str) -> None:
    page = Page(build_page(content(label)))
    assert [tag for tag, _ in page.elements].count("script") == 4  # two clips, the data, the program
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    clips = [base64.b64decode(text) for tag, each, text in page.raw if each.get("type") == "text/plain"]
    assert clips == [b"first clip", b"second clip"]


def test_hostile_names_arrive_as_text() -> None:
    page = build_page(content(HOSTILE))
    data = next(text for _, each, text in Page(page).raw if each.get("type") == "application/json")
    assert json.loads(data)["inputs"][0]["label"] == visible_text(HOSTILE)
    assert "alert(1)</script>" not in page.decode()
    for letter in ("\u202e", "\x1b"):
        assert letter not in page.decode()
    images = [each for tag, each in Page(page).elements if tag == "img"]
    assert {str(each["src"])[:22] for each in images} == {"data:image/png;base64,"}
    assert images[0]["alt"] == visible_text(HOSTILE)


@settings(max_examples=25)
@given(st.text())
def test_any_name_leaves_the_structure_of_the_page_alone(label: str) -> None:
    plain, named = Page(build_page(content("a"))), Page(build_page(content(label)))

    def tags(page: Page) -> list[str]:
        # The file's name is shown once more where it differs from the label; here it never does.
        return [tag for tag, _ in page.elements]

    assert tags(named) == tags(plain)


def test_the_files_of_the_page_are_in_the_package() -> None:
    folder = resources.files("vidsr.comparison") / "page"
    assert {each.name for each in folder.iterdir()} == {"page.html", "page.css", "page.js"}
    template = (folder / "page.html").read_text()
    named = set(re.findall(r"byId\(\"([\w-]+)\"\)", (folder / "page.js").read_text()))
    assert named and named <= set(re.findall(r'id="([\w-]+)"', template)) | {"data", "still-0"}


# ---------------------------------------------------------------------------------------------------------- report


def run_report(name: str, **changes: Any) -> RunReport:
    track = FaceTrack(1, 0, 40, Fraction(1, 25), 41, 20, 23.4, 27.8, 0.9)
    levels = [DegradationLevels(0.1, 0.2, 0.3), DegradationLevels(0.5, 0.2, 0.9)]
    report = RunReport(
        input="in.mp4", output=f"/somewhere/{name}", model="secnet-fast", model_sha256=None, device="cpu",
        precision="fp32", frames_in=50, frames_out=50, input_size=(112, 84), output_size=(448, 336),
        face_model="secnet-fast-face", faces=[TrackReport(track, 30, {"small": 11})], duration_seconds=2.0, rate=25.0,
        scenes=2, degradation=[SceneDegradation(float(start), each) for start, each in enumerate(levels)],
        damages=[Damage(1.5, "bad packet")], warnings=["<b>careful</b>"], stage_seconds={"decode": 1.0, "network": 3.0},
        wall_seconds=5.0, peak_memory_bytes=512 << 20,
    )  # fmt: skip
    return dataclasses.replace(report, **changes)


def test_the_figures_of_a_report(tmp_path: Path) -> None:
    write_reports(tmp_path / "r.json", [run_report("other.mp4", model="no"), run_report("b.mp4")], [])
    figures = read_report(tmp_path / "r.json", [tmp_path / "b.mp4"])
    rows = dict(figures.rows)
    assert figures.name == "b.mp4" and rows["model"] == "secnet-fast"
    assert rows["size"] == "112×84 → 448×336" and rows["time"] == "5.0 s, 10.00 frames/s"
    assert rows["faces"] == "1 of 1 restored by secnet-fast-face" and rows["memory"] == "512 MiB at most"
    assert figures.warnings == ("damaged after 1.5 s: bad packet", "<b>careful</b>")
    stages, degradation, faces = figures.plots
    assert "3.0 s, 75 %" in stages and stages.index("network") < stages.index("decode")
    widths = [float(each) for each in re.findall(r'class="bar" x="\d+" y="\d+" width="([\d.]+)"', stages)]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.2)
    assert "30 of 41" in faces and degradation.count('class="line') == 3
    assert not re.search(r"style=|<script|\son\w+=", "".join(figures.plots))
    page = build_page(content(figures=(figures,))).decode()
    assert "&lt;b&gt;careful" in page and "<b>careful" not in page


def test_reports_that_cannot_be_shown(tmp_path: Path) -> None:
    path, result = tmp_path / "r.json", [tmp_path / "b.mp4"]
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path, result)
    for text in ("{", "[]", '{"runs": []}', '{"runs": [3]}', '{"runs": [{"output": "b.mp4"}]}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError):
            read_report(path, result)
    write_reports(path, [run_report("c.mp4"), run_report("d.mp4")], [], overwrite=True)
    with pytest.raises(UsageError, match=r"none of them of b\.mp4"):
        read_report(path, result)
    write_reports(path, [run_report("renamed.mp4", face_model=None, faces=[], degradation=[])], [], overwrite=True)
    figures = read_report(path, result)
    assert figures.name == "renamed.mp4" and len(figures.plots) == 1


# ------------------------------------------------------------------------------------------------- image and part


def test_a_sheet_side_by_side() -> None:
    images = [torch.full((3, 60, 80), value) for value in (0.2, 0.5, 0.8)]
    sheet = Sheet(["a", "b", "c"], (80, 60), "side")
    result = sheet.arrange(images)
    assert result.shape == (3, sheet.size[1], sheet.size[0]) == (3, 60, 3 * 80 + 2 * GAP)
    for index, value in enumerate((0.2, 0.5, 0.8)):
        left = index * (80 + GAP)
        assert torch.all(result[:, :30, left : left + 80] == torch.tensor(value))
        assert result[:, 40:, left : left + 40].std() > 0.01, "the label is there"


def test_a_sheet_with_a_wipe() -> None:
    images = [torch.full((3, 60, 101), value) for value in (0.25, 0.75)]
    sheet = Sheet(["", ""], (101, 60), "wipe")
    assert sheet.size == (102, 60)
    for share in (0.0, 0.3, 1.0):
        result = sheet.arrange(images, share)
        edge = round(share * 101)
        assert torch.all(result[:, :, : max(0, edge - 1)] == 0.25)
        assert torch.all(result[:, :, edge + 1 : 101] == 0.75)


def test_long_labels_stay_inside_their_image() -> None:
    images = [torch.zeros(3, 40, 64), torch.zeros(3, 40, 64)]
    result = Sheet(["a very long name of a video.mp4", ""], (64, 40), "side").arrange(images)
    assert result[:, :, :64].max() > 0 and result[:, :, 64:].max() == 0


def made_input(seconds: float | None, size: tuple[int, int] = (64, 48), is_still: bool = False) -> Input:
    info = VideoInfo(
        "a", "mp4", 0, "h264", *size, "yuv420p", 8, Fraction(1, 25), Color(), header_duration_seconds=seconds
    )
    return Input(Source(Path("a")), "a", info, View(), size, Fraction(0), is_still, "a")


PARTS = [
    (8.0, None, None, 0, None, 4),
    (100.0, None, None, 47, 53, 50),
    (None, None, None, 0, 6, 3),
    (100.0, 20, None, 20, 26, 23),
    (100.0, None, 4, 0, 4, 2),
    (100.0, None, 20, 14, 20, 17),
    (100.0, 30, 34, 30, 34, 32),
]


@pytest.mark.parametrize(("length", "start", "end", "first", "last", "middle"), PARTS)
def test_the_part_that_is_shown(
    length: float | None, start: int | None, end: int | None, first: int, last: int | None, middle: int
) -> None:
    trim = InputConfig(start=None if start is None else Fraction(start), end=None if end is None else Fraction(end))
    part = choose_part([made_input(length), made_input(length and 2 * length)], trim)
    assert (part.start, part.end, part.middle) == (first, last, middle)
    assert PAGE_SECONDS <= MAX_PAGE_SECONDS


def test_the_size_of_a_comparison_is_that_of_the_largest_input() -> None:
    assert same_size([made_input(1, (64, 48)), made_input(1, (256, 192)), made_input(1, (200, 200))]) == (256, 192)


def test_a_face_is_cut_out_of_every_input_at_its_place() -> None:
    large = torch.zeros(3, 200, 400)
    large[:, 90:110, 290:310] = 1.0
    small = large[:, ::4, ::4]
    place = FacePlace(Fraction(0), 0.75, 0.25, 0.05, 1.0)  # the center at (300, 100), 20 pixels wide
    crops = cut_out(Moment(Fraction(0), (small, large)), place, (400, 200))
    assert [crop.shape for crop in crops] == [(3, 96, 96)] * 2 and crop_side(place, (400, 200)) == 96
    for crop in crops:
        side = crop.shape[1]
        assert crop[:, side // 2 - 8 : side // 2 + 8, side // 2 - 8 : side // 2 + 8].mean() > 0.9
        assert crop[:, :8, :8].max() < 0.1


def test_library_and_command_have_the_same_options() -> None:
    here, there = (inspect.signature(function).parameters for function in (vidsr.compare, command))
    renamed = {"label": "labels", "report": "reports"}
    only_command = {"progress", "quiet", "verbose"}
    assert here.keys() - {"on_progress"} == {renamed.get(name, name) for name in there.keys() - only_command}
    for name in ("layout", "faces", "start", "end", "rate", "overwrite", "html", "png", "video"):
        assert here[name].default == there[name].default
        assert here[name].kind is inspect.Parameter.KEYWORD_ONLY


# ----------------------------------------------------------------------------------------------------- refusals


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"page": Path("a.png")}, {}, UsageError, "--html"),
    ({"image": Path("a.jpg")}, {}, UsageError, "--png"),
    ({"page": Path("none/a.html")}, {}, OutputError, "does not exist"),
    ({"image": Path("a.png")}, {"layout": "wipe"}, UsageError, "--layout wipe is for two"),
]


@pytest.mark.parametrize(("targets", "options", "error", "words"), REFUSED)
def test_refused_before_any_file_is_opened(
    tmp_path: Path, targets: dict[str, Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    paths = [tmp_path / name for name in ("x.mp4", "y.mp4", "z.mp4")]
    wanted = CompareTargets(**{name: tmp_path / path for name, path in targets.items()})
    with pytest.raises(error, match=words):
        compare(paths, wanted, CompareConfig(**options))
    with pytest.raises(UsageError, match="at least two"):
        compare(paths[:1], wanted, CompareConfig())
