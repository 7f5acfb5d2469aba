"""The distribution: its name, its dependencies, and what its two archives contain."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from vidsr.models.cards import list_cards

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PROJECT = re.compile(r"(?:pip|pipx|uv tool) install [^\n`&]*\bvidsr(?![\w-])(?!\[)")
# Its wheel needs the system's libGL and X libraries; the headless one and those of other systems do not.
WITH_WINDOWS = ("opencv-python", "scenedetect")


def dependencies(platform: str) -> set[str]:
    """The names that are installed on a platform (as sys.platform has it)."""
    wanted = map(Requirement, PROJECT["project"]["dependencies"])
    place = {"sys_platform": platform, "platform_machine": "x86_64"}
    return {each.name for each in wanted if each.marker is None or each.marker.evaluate(place)}


def test_the_distribution_is_not_the_other_projects() -> None:
    assert PROJECT["project"]["name"] == "vidsr-video"
    assert PROJECT["project"]["scripts"] == {"vidsr": "vidsr.__main__:main"}


def test_no_document_installs_the_other_project() -> None:
    assert [path.name for path in DOCUMENTS if OTHER_PROJECT.search(path.read_text(encoding="utf-8"))] == []
    assert all(map(OTHER_PROJECT.search, ("pip install vidsr", "`pipx install vidsr`", "uv tool install vidsr==0.2")))
    assert not any(map(OTHER_PROJECT.search, ("pip install vidsr-video", "pip install ./vidsr-0.1.tar.gz", ". vidsr")))


def test_linux_needs_no_windows() -> None:
    assert dependencies("linux") & {*WITH_WINDOWS} == set()
    for name in WITH_WINDOWS:
        assert f"{name}-headless" in dependencies("linux")
        for platform in ("darwin", "win32"):
            assert name in dependencies(platform) and f"{name}-headless" not in dependencies(platform)


def test_every_dependency_has_its_version_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    fixed = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines if "==" in line}
    lists = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    names = {Requirement(each).name for named in lists for each in named} - {"vidsr-video", "onnxruntime"}
    assert names - fixed == set()


def test_both_archives_hold_the_models() -> None:
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {"models": "vidsr/models/shipped"}
    assert not any(pattern.strip("/").startswith("models") for pattern in targets["sdist"]["exclude"])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"!models", "!vidsr", "!pyproject.toml", "!README.md", "!LICENSE", "!constraints.txt"} <= {*ignored}
    assert all(card.path.is_file() and card.weights_path.is_file() for card in list_cards())
