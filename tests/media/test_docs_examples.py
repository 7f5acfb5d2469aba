"""The Python examples of README and docs run as they are printed, on shortened samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import media
from vidsr.config import InputConfig
from vidsr.video.reader import Reader

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
FRAMES = 3


def examples(document: Path) -> list[str]:
    """The ```python blocks of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


DOCUMENTS = [
    document
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if document.is_file() and examples(document)
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with in.mp4, a sample at half its size, and original.mp4, its truth in four times that size."""
    for name, sample in (("in.mp4", "portrait_112x84.mp4"), ("original.mp4", "portrait_448x336_truth.mp4")):
        media.ffmpeg(
            "-i", str(SAMPLES / sample), "-vf", "scale=iw/2:ih/2", "-frames:v", str(FRAMES), str(tmp_path / name)
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames_of(path: Path) -> list[Any]:
    """H x W x 3 arrays, uint8."""
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return [(frame.image * 255).round().byte().permute(1, 2, 0).numpy() for frame in reader.frames()]


def test_readme_and_library_are_shown_by_examples() -> None:
    assert {"README.md", "python.md"} <= {document.name for document in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_of_a_document_run_one_after_the_other(folder: Path, document: Path) -> None:
    names: dict[str, Any] = {"frames": frames_of(folder / "in.mp4")}
    for number, example in enumerate(examples(document), 1):
        exec(compile(example, f"{document.name}, example {number}", "exec"), names)
    assert (folder / "out.mp4").is_file()


def test_an_example_that_fails_is_seen(folder: Path) -> None:
    document = folder / "wrong.md"
    document.write_text("text\n\n```python\nimport vidsr\nvidsr.upscal('in.mp4')\n```\n")
    with pytest.raises(AttributeError, match="upscal"):
        exec(examples(document)[0], {})
