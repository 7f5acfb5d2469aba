"""README and docs: short, linked, and true to the commands, options, exit codes, models and figures they describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vidsr.cli import COMMANDS, load_command
from vidsr.errors import EXIT_CODES, VidsrError
from vidsr.models.cards import TrainedCard, list_cards
from vidsr.models.loading import describe

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "samples/README.md")
] + sorted((ROOT / "docs").glob("*.md"))
PACKAGE = ROOT / "vidsr"  # architecture.md names its files without the package
PLACEHOLDERS = ("NAME", "mynet")
SETS = {"Vid4": "vid4", "fast motion": "general", "faces": "faces"}


def slugs(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[str]:
    """The relative targets of a document's links and images."""
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    return [target for target in targets if "://" not in target]


def broken(document: Path) -> list[str]:
    """The links that lead to no file, or to no heading."""
    found = []
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in slugs(path.read_text(encoding="utf-8"))):
            found.append(target)
    return found


def table_rows(text: str, first: str) -> list[list[str]]:
    """The cells of the rows of the table whose header begins with `| first |`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def options(command: str) -> set[str]:
    """The long options of a command."""
    names = {name for param in load_command(command).params for name in (*param.opts, *param.secondary_opts)}
    return {name for name in names if name.startswith("--")} - {"--help"}


def test_the_readme_is_a_landing_page() -> None:
    assert len(README.split()) <= 1000


def test_the_readme_shows_the_test_command_that_ci_runs() -> None:
    shown = [line.strip() for line in README.splitlines() if line.endswith("python -m pytest")]
    script = (ROOT / ".ci" / "test").read_text(encoding="utf-8").splitlines()
    assert shown == [line for line in script if "pytest" in line and not line.startswith("#")]
    assert len(shown) == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# One thing's name\n[a](#one-things-name) [b](#two) [c](none.md) [d](a.md#one) ![e](a.png)")
    assert broken(document) == ["#two", "none.md", "a.md#one", "a.png"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_file_exists(document: Path) -> None:
    text = re.sub(r"https?://[^\s)]+", "", document.read_text(encoding="utf-8"))  # files of others
    if document.parent.name == "benchmarks":  # the scripts of old in its table are to be gone
        text = re.sub(r"^\| `benchmarks/.*", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w./])(?:[\w-]+/)+[\w.-]+\.(?:py|toml|md|png|jsonl)\b", text))
    absent = [
        name for name in named if not any((folder / name).exists() for folder in (ROOT, PACKAGE, document.parent))
    ]
    assert [name for name in sorted(absent) if Path(name).stem not in PLACEHOLDERS] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_benchmark_can_be_run(document: Path) -> None:
    for name in set(re.findall(r"python -m\s(benchmarks[\w.]*\w)", document.read_text(encoding="utf-8"))):
        path = ROOT.joinpath(*name.split("."))
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert "main()" in source.read_text(encoding="utf-8"), f"{name} is nothing that can be run"


@pytest.mark.parametrize("command", ["upscale", "slowmo"])
def test_every_option_is_described(command: str) -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(--[a-z-]+)", text))
    assert options(command) - described == set()


def test_no_other_option_is_described() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    described = {
        name for row in text.splitlines() if row.startswith("| `") for name in re.findall(r"`(--[a-z-]+)", row)
    }
    assert described - options("upscale") - options("slowmo") == set()


def test_every_command_is_described() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert set(COMMANDS) == set(re.findall(r"^    vidsr ([a-z]+)", text, flags=re.MULTILINE))


def test_every_exit_code_is_described() -> None:
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    assert {int(row[0]) for row in table_rows(text, "code")} == {*EXIT_CODES}
    assert set(re.findall(r"`(\w+Error)` \((\d)\)", text)) == {
        (kind.__name__, str(kind.exit_code)) for kind in VidsrError.__subclasses__()
    }


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_the_sizes_of_a_model_are_true(card: TrainedCard) -> None:
    values = describe(card.name)
    rows = table_rows((ROOT / "docs" / "models.md").read_text(encoding="utf-8"), "model")
    row = next(row for row in rows if row[0] == f"`{card.name}`")
    assert row[2] == f"{values['parameters']['total']:,}"
    assert row[3].split()[0] == f"{values['multiply_adds_per_pixel']:,.0f}"
    assert row[4].split()[0] == str(card.lookahead or "none")
    assert row[5] == f"{card.bytes / 1e6:.1f} MB"
    short = next(row for row in table_rows(README, "model") if row[0] == f"`{card.name}`")
    assert short[2:] == [row[2], row[4], row[5]]


@pytest.mark.parametrize("row", table_rows((ROOT / "docs" / "quality.md").read_text(encoding="utf-8"), "set"), ids=str)
def test_the_figures_of_a_model_are_those_of_its_card(row: list[str]) -> None:
    name, reduction, *compressed = row[0].split(", ")
    key = f"{SETS[name]}_{reduction.lower()}{'_crf28' if compressed else ''}"
    card = next(card for card in list_cards() if card.name == row[3])
    assert isinstance(card, TrainedCard)
    shown = [float(cell.split(" (")[0]) for cell in row[4:]]
    kept = [card.metrics[f"{key}_{measure}"] for measure in ("psnr_rgb", "psnr_y", "ssim_vh", "ssim_vt")]
    assert shown[:2] == pytest.approx(kept[:2], abs=0.0051) and shown[2:] == pytest.approx(kept[2:], abs=0.00051)
    gain = float(row[4].split("(")[1].strip("+)"))
    assert gain == pytest.approx(shown[0] - float(row[1]), abs=0.0151)


def test_the_readme_quotes_the_quality_table() -> None:
    table = table_rows((ROOT / "docs" / "quality.md").read_text(encoding="utf-8"), "set")
    known = {(row[1], row[3], *row[4].strip(")").split(" (")) for row in table}
    quoted = table_rows(README, "clips and how they were reduced")
    assert len(quoted) == 4
    assert {(bicubic, model.strip("`"), psnr, gain) for _, model, bicubic, psnr, gain in quoted} <= known
