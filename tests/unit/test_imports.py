"""The rules of the design that a reader of the sources can check: who imports whom, and what no module does.

The same layers are checked by import-linter where it is installed; this needs the standard library only.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "vidsr"
FILES = sorted(PACKAGE.rglob("*.py"))
# The only place that may import each of these packages; None: no place at all.
HOMES = {
    "av": "video",
    "onnxruntime": "runtime/onnx_session.py",  # which turns off its telemetry first
    "rich": "cli/console.py",
    "click": None,
    "torchvision": None,
}
LONGEST_FUNCTION = 60


def layers() -> list[list[str]]:
    """The layers of pyproject.toml, top first; names in one list are neighbors."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    table = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    return [[name.strip() for name in row.split("|")] for row in table]


def imported(source: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere; `from vidsr import x` counts as vidsr.x."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            if node.module == "vidsr":
                yield from (f"vidsr.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def room_of(path: Path) -> str:
    """The part of the package that a file belongs to: a folder or a single module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def faults(source: str, room: str, file: str = "") -> list[str]:
    """What a module of this room imports although it must not; `file` is its path inside the package."""
    height = {name: level for level, names in enumerate(layers()) for name in names}
    found = []
    for name in imported(source):
        first, _, rest = name.partition(".")
        if first in HOMES and HOMES[first] not in (room, file):
            found.append(name)
        target = rest.partition(".")[0]
        if first == "vidsr" and target in height and target != room and height[target] <= height.get(room, -1):
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    assert faults(path.read_text(), room_of(path), path.relative_to(PACKAGE).as_posix()) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("pipeline", "import av"),
        ("faces", "def f():\n    import onnxruntime"),
        ("cli", "def f():\n    from rich.table import Table"),
        ("cli", "import click"),
        ("nets", "import torchvision.models"),
        ("nets", "from vidsr.models.loading import find_card"),
        ("engines", "from vidsr.faces.tracker import FaceTracker"),
        ("models", "from vidsr.video import reader"),
        ("video", "from vidsr.pipeline import run"),
        ("pipeline", "from vidsr.cli import app"),
        ("types", "from vidsr.errors import VidsrError"),
    ],
)
def test_the_check_sees_a_forbidden_import(room: str, source: str) -> None:
    assert faults(source, room) != []


def test_every_module_has_a_layer() -> None:
    listed = {name for names in layers() for name in names}
    assert {room_of(path) for path in FILES} - {"__init__", "__main__"} == listed


@pytest.mark.parametrize("path", sorted((PACKAGE / "nets").rglob("*.py")), ids=lambda path: path.name)
def test_networks_know_no_files_devices_or_options(path: Path) -> None:
    ours = {name.split(".")[1] for name in imported(path.read_text()) if name.startswith("vidsr.")}
    assert ours <= {"errors", "types", "config", "nets"}
    assert "pathlib" not in set(imported(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_prints_exits_or_takes_any_keyword(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "exit", "quit", "breakpoint"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in (("sys", "exit"), ("os", "_exit"), ("os", "getenv"))
        if isinstance(node, ast.FunctionDef):
            assert node.args.kwarg is None, f"line {node.lineno}: a misspelt name must fail"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            # There each option is a parameter, of several lines.
            has_options = path.parent.name == "cli" or path.name == "api.py"
            assert has_options or node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{node.name}, line {node.lineno}"


def readings(source: str) -> list[str]:
    """Calls that open media: av.open for anything but writing, and OpenCV's reader."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
        if (name in ("av.open", "av.container.open", "InputContainer") and modes != ["w"]) or "VideoCapture" in name:
            found.append(name)
    return found


def test_media_is_opened_for_reading_in_one_place() -> None:
    """`demuxers.py` allows no playlists; training, which OpenCV reads for, refuses texts."""
    found = {str(path.relative_to(PACKAGE)): calls for path in FILES if (calls := readings(path.read_text()))}
    assert found == {"video/demuxers.py": ["av.open"], "train/dataset.py": ["cv2.VideoCapture"]}
    imported_open = [path.name for path in FILES if "from av import" in path.read_text()]
    assert imported_open == []
    assert readings("av.open(path)") and readings('av.open(path, "r")') and readings("av.open(path, mode)")
    assert not readings('av.open(path, "w")') and not readings('av.open(path, mode="w")')
