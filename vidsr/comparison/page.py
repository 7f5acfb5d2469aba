"""The HTML page of a comparison: one file without any request, from the template, style and script in `page/`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from vidsr import __version__
from vidsr.comparison.figures import Figures, visible_text

# Browsers and mail programs handle larger files badly.
MAX_PAGE_BYTES = 30_000_000


@dataclass(frozen=True, slots=True)
class PageInput:
    """One input on a page: `size` is (width, height) of its frames there, `file` its name, `facts` its table row.

    `clip` is an MP4 file, None for still images; `still` a PNG or JPEG file: the image itself, or one frame of a clip.
    """

    label: str
    file: str
    size: tuple[int, int]
    facts: tuple[str, ...]
    still: bytes
    clip: bytes | None = None


@dataclass(frozen=True, slots=True)
class PagePart:
    """A part of the videos on a page: its frames are `count` from number `first` on."""

    label: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class PageFace:
    """A face on a page: PNG or JPEG files of it from each input.

    `frame` is the number of the frame that it is seen in; `x`, `y` its center and `side` its side relative to the
    image's width and height.
    """

    frame: int
    x: float
    y: float
    side: float
    images: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PageContent:
    """All that a page shows.

    `times` are the beginnings of the clips' frames and the end of the last one, in 1/`ticks` s; `seconds` their times
    in the first input. Both are empty for still images.
    """

    inputs: tuple[PageInput, ...]
    size: tuple[int, int]
    ticks: int
    times: tuple[int, ...]
    seconds: tuple[float, ...]
    parts: tuple[PagePart, ...]
    faces: tuple[PageFace, ...] = ()
    figures: tuple[Figures, ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def build_page(content: PageContent) -> bytes:
    """The page as a UTF-8 file."""
    files = resources.files("vidsr.comparison") / "page"
    template, style, script = (
        (files / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data: blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'"
    )
    labels = [_text(each.label) for each in content.inputs]
    values = {
        "policy": policy,
        "version": escape(__version__),
        "title": f"{_listed(labels)} – vidsr compare",
        "heading": _listed([f"<bdi>{label}</bdi>" for label in labels]),
        "subtitle": _subtitle(content),
        "style": style,
        "script": script,
        "stills": "".join(_still(index, each) for index, each in enumerate(content.inputs)),
        "notes": _notes(content.notes),
        "faces": _faces(content),
        "inputs": _inputs(content),
        "report": "".join(_report(each) for each in content.figures),
        "media": "".join(
            f'<script type="text/plain" id="media-{index}">{_base64(each.clip)}</script>\n'
            for index, each in enumerate(content.inputs)
            if each.clip is not None
        ),
        "data": _data(content),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template).encode("utf-8")


def _data(content: PageContent) -> str:
    """What the script needs, as JSON that cannot end its element."""
    is_clip = content.inputs[0].clip is not None
    values = {
        "kind": "clip" if is_clip else "still",
        "size": content.size,
        "ticks": content.ticks,
        "times": content.times,
        "seconds": content.seconds,
        "parts": [
            {"label": visible_text(part.label), "first": part.first, "count": part.count} for part in content.parts
        ],
        "inputs": [{"label": visible_text(each.label), "size": each.size} for each in content.inputs],
        "left": 0,
        "right": 1,
        "faces": [{"frame": face.frame, "x": face.x, "y": face.y, "side": face.side} for face in content.faces],
    }
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _subtitle(content: PageContent) -> str:
    width, height = content.size
    if content.inputs[0].clip is None:
        return f"Still images, compared at {width} × {height} pixels"
    return f"{len(content.seconds)} frames, compared at {width} × {height} pixels"


def _still(index: int, each: PageInput) -> str:
    label = _text(each.label)
    return (
        f'<figure><img id="still-{index}" src="{_data_url(each.still)}" alt="{label}">'
        f"<figcaption><bdi>{label}</bdi></figcaption></figure>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<div class="notes">{"".join(f"<p>{_text(note)}</p>" for note in notes)}</div>'


def _faces(content: PageContent) -> str:
    """The strip of faces, each a button that shows the face in the viewer."""
    if not content.faces:
        return ""
    items = []
    for index, face in enumerate(content.faces):
        images = "".join(
            f'<img src="{_data_url(data)}" alt="{_text(each.label)}" title="{_text(each.label)}">'
            for data, each in zip(face.images, content.inputs, strict=True)
        )
        pixels = round(face.side * content.inputs[0].size[0])
        when = f", at {content.seconds[face.frame]:.2f} s" if content.seconds else ""
        items.append(
            f'<li><button type="button" class="face" data-face="{index}" aria-label="Show face {index + 1} enlarged">'
            f'<span class="pair">{images}</span><span class="words">{pixels} pixels wide before{when}</span>'
            "</button></li>"
        )
    order = ", ".join(f"<bdi>{_text(each.label)}</bdi>" for each in content.inputs)
    return (
        '<section class="panel"><h2>Faces</h2>'
        f'<p class="about">Each from left to right: {order}. A click shows the face in the viewer.</p>'
        f'<ul class="faces">{"".join(items)}</ul></section>'
    )


def _inputs(content: PageContent) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in content.columns)
    rows = "".join(
        f'<tr><th scope="row"><bdi>{_text(each.label)}</bdi>{_file(each)}</th>'
        f"{''.join(f'<td>{_text(fact)}</td>' for fact in each.facts)}</tr>"
        for each in content.inputs
    )
    return (
        '<section class="panel"><h2>Inputs</h2><div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _file(each: PageInput) -> str:
    return "" if each.file == each.label else f'<span class="file"><bdi>{_text(each.file)}</bdi></span>'


def _report(figures: Figures) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in figures.rows)
    warnings = "".join(f"<li>{_text(warning)}</li>" for warning in figures.warnings)
    return (
        f'<section class="panel report"><h2>Report of the run: <bdi>{_text(figures.name)}</bdi></h2>'
        f'<div class="columns"><dl class="facts">{rows}</dl><div class="plots">{"".join(figures.plots)}</div></div>'
        + (f'<ul class="warnings">{warnings}</ul>' if warnings else "")
        + "</section>"
    )


def _text(text: str) -> str:
    return escape(visible_text(text))


def _hash(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode('utf-8')).digest())}'"


def _base64(data: bytes | None) -> str:
    return base64.b64encode(data or b"").decode("ascii")


def _data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{_base64(image)}"
