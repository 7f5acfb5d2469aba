"""Other people's ONNX files: imported, listed, run whole and in tiles, and as a cleaning stage before another model."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from tests.support import media
from tests.support.image_graphs import Small, graph_of, settings_of, write_graph
from vidsr.cli import app
from vidsr.config import ComputeConfig, InputConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.select import Selection, build_engine, default_scale, select, select_cleaner
from vidsr.engines.tiled import JOINED_BYTES_PER_PIXEL, TiledEngine
from vidsr.errors import ModelError, UsageError
from vidsr.models.cards import ImportedCard, model_files, own_models_folder, read_card, resolve_model
from vidsr.models.graph_measures import bytes_per_pixel
from vidsr.models.image_graph import ImageGraph
from vidsr.models.zoo import import_foreign
from vidsr.pipeline import plan as planning
from vidsr.pipeline.plan import plan_frames
from vidsr.pipeline.signature import Signature, chosen_weights, sign
from vidsr.types import Color, Frame, VideoInfo
from vidsr.video.reader import Reader

pytestmark = pytest.mark.numeric
LOSSLESS = ("--codec", "ffv1", "--pix-fmt", "yuv444p", "--device", "cpu")
# One level of YUV is up to two of RGB; rounded in YUV and in RGB.
ROUNDED = 3.1 / 255


def vidsr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with the models that the tests of this file import."""
    for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    return own_models_folder()


@pytest.fixture(scope="module")
def double(home: Path) -> Path:
    """A graph of scale 2 for any size, imported as "double" by the command."""
    file = write_graph(home / "double.onnx", Small(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(home))
        result = vidsr("models", "import", file, "--licence", "CC0-1.0")
        assert result.exit_code == 0, result.stderr
        assert "enlarges by 2; sides of an image: any" in result.stderr and "warning" not in result.stderr
        assert "use it with --model double; license: CC0-1.0" in result.stderr
        assert result.stdout == f"{own_models_folder() / 'double.toml'}\n"
    return file


@pytest.fixture(scope="module")
def cleaner(home: Path) -> Path:
    """The card of a graph of scale 1 whose sides are multiples of 4."""
    return import_foreign(write_graph(home / "soft.onnx", Small(1, step=4)), home / "vidsr" / "models").card


def images(path: Path) -> Tensor:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return torch.stack([frame.image for frame in reader.frames()])


def in_float64(network: nn.Module, clip: Tensor, multiple: int = 1) -> Tensor:
    """The network on frames T x 3 x h x w, padded to what it takes, clamped."""
    height, width = clip.shape[-2:]
    padded = F.pad(clip.double(), (0, -width % multiple, 0, -height % multiple), mode="replicate")
    large = network.double()(padded).clamp(0, 1)
    network.float()
    scale = large.shape[-1] // padded.shape[-1]
    return large[..., : scale * height, : scale * width]


def test_a_graph_is_known_by_its_card(double: Path, own_folder: Path) -> None:
    card = read_card(own_folder / "double.toml")
    assert isinstance(card, ImportedCard) and (card.scale, card.lookahead, card.licence) == (2, 0, "CC0-1.0")
    assert card.origin_sha256 == hashlib.sha256(double.read_bytes()).hexdigest()
    table = tomllib.loads((own_folder / "double.toml").read_text())["network"]
    assert (table["multiple_of"], table["fixed_width"], table["precision"]) == (1, 0, "fp32")
    assert table["colors"] == "RGB, 0 to 1" and table["tile_difference"] == 0
    listed = {model["name"]: model for model in json.loads(vidsr("models", "list", "--json").stdout)}
    assert (listed["double"]["scale"], listed["double"]["licence"]) == (2, "CC0-1.0")
    assert "CC0-1.0" in vidsr("models", "list").stderr
    shown = json.loads(vidsr("models", "show", "double", "--json").stdout)
    assert shown["parameters"]["total"] == sum(p.numel() for p in Small(2).parameters())
    assert shown["network"]["overlap"] == 32 and "sides: any" in shown["summary"]
    assert "double: intact" in vidsr("models", "verify", "double").stderr


def test_a_video_gets_the_scale_of_the_model_whole_and_in_tiles(double: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3, width=120, height=96)
    expected = in_float64(Small(2), images(source))
    for name, model, tile in (("whole", "double", "off"), ("tiled", str(double), "64")):
        target, report = tmp_path / f"{name}.mkv", tmp_path / f"{name}.json"
        run = vidsr("upscale", source, target, "--model", model, "--tile", tile, *LOSSLESS, "--report", report)
        assert run.exit_code == 0, run.stderr
        (facts,) = json.loads(report.read_text())["runs"]
        assert (facts["model"], facts["precision"], facts["output_size"]) == ("double", "fp32", [240, 192])
        assert facts["tile"] == (64 if tile == "64" else None) and facts["face_model"] is None
        assert (images(target) - expected).abs().max() <= ROUNDED
    repeated = images(source).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (expected - repeated).abs().max() > 3 * ROUNDED, "the network changes the image by more than is tolerated"
    run = vidsr("upscale", source, "--model", "double", "--dry-run")
    assert run.exit_code == 0 and "120x96 to 240x192, double on cpu (fp32)" in run.stderr
    assert "faces not restored" in run.stderr and {path.stem for path in tmp_path.iterdir()} == {"a", "whole", "tiled"}


def test_what_the_scale_of_the_model_is_the_default_of(double: Path, cleaner: Path) -> None:
    assert default_scale(UpscaleConfig(compute=ComputeConfig(model=resolve_model("double")))) == 2
    assert default_scale(UpscaleConfig(compute=ComputeConfig(model=str(cleaner)))) == 1
    assert default_scale(UpscaleConfig()) == 4
    from vidsr.pipeline.batch import default_suffix

    assert default_suffix(UpscaleConfig(compute=ComputeConfig(model=resolve_model("double")))) == "_x2"


def chosen(model: str | Path, height: int, width: int, tile: Any = "off", **options: Any) -> Selection:
    return select(ComputeConfig(model=str(model), device="cpu", tile=tile, **options), "upscale", height, width)


def enlarged(selection: Selection, frame: Tensor) -> Tensor:
    engine = build_engine(selection).engine
    state = engine.init_state(*frame.shape[1:])
    ready, state = engine.step(Frame(frame, 0, media.Fraction(1, 25), 1), state)
    return [*ready, *engine.flush(state)][0].image


def noise(height: int, width: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((3, height, width), dtype=np.float32))


def test_a_graph_of_one_size_is_laid_over_the_frame(home: Path) -> None:
    network = Small(2, width=4)
    imported = import_foreign(write_graph(home / "fixed.onnx", network, fixed=(48, 64)), home / "cards")
    assert imported.config.fixed_size == (48, 64) and "64x48 only" in imported.config.size_rule
    for height, width, tile in ((48, 64, "off"), (20, 30, "off"), (100, 150, "off"), (100, 150, 64)):
        frame = noise(height, width)
        expected = in_float64(network, F.pad(frame[None], (0, max(0, 64 - width), 0, max(0, 48 - height)), "replicate"))
        found = enlarged(chosen(imported.card, height, width, tile), frame)
        assert (found - expected[0, :, : 2 * height, : 2 * width]).abs().max() < 1e-5, (height, width, tile)


def test_a_graph_in_half_precision(home: Path) -> None:
    network = Small(2, width=4)
    imported = import_foreign(write_graph(home / "half.onnx", network, is_half=True), home / "cards")
    selection = chosen(imported.card, 33, 50)
    assert (selection.precision, selection.backend) == ("fp16", "onnx")
    frame = noise(33, 50)
    difference = (enlarged(selection, frame) - in_float64(network.half(), frame[None])[0]).abs().max()
    # Input, weights, sums and output have 11 bits: each of them is off by 2 ** -12 at most, and so is their product.
    assert 0 < difference < 8 * 2**-12


def test_sides_are_padded_to_the_multiple_that_was_found(cleaner: Path) -> None:
    table = tomllib.loads(cleaner.read_text())["network"]
    assert table["multiple_of"] % 4 == 0 and table["minimum"] <= 32
    frame = noise(34, 51)
    expected = in_float64(Small(1, step=4), frame[None], table["multiple_of"])
    assert (enlarged(chosen(cleaner, 34, 51), frame) - expected[0]).abs().max() < 1e-5
    tiled = enlarged(chosen(cleaner, 130, 90, 64), noise(130, 90))
    whole = in_float64(Small(1, step=4), noise(130, 90)[None], table["multiple_of"])
    assert (tiled - whole[0]).abs().max() < 1e-5, "tiles begin where a block begins"


# ---------------------------------------------------------------------------------------------------------- cleaning


def test_a_model_of_scale_1_cleans_before_another(double: Path, cleaner: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3, width=64, height=48)
    target, report = tmp_path / "b.mkv", tmp_path / "b.json"
    arguments = ("upscale", source, target, "--model", "double", "--clean", "soft", *LOSSLESS)
    run = vidsr(*arguments, "--dry-run")
    assert run.exit_code == 0 and "64x48 to 128x96, double after soft on cpu" in run.stderr and not target.exists()
    run = vidsr(*arguments, "--report", report)
    assert run.exit_code == 0 and "double after soft on cpu" in run.stderr
    (facts,) = json.loads(report.read_text())["runs"]
    assert facts["clean_model"] == "soft" and facts["clean_model_sha256"] == read_card(cleaner).sha256
    assert facts["stage_seconds"].keys() >= {"clean", "network"}
    clean = in_float64(Small(1, step=4), images(source), 4)
    found, expected = images(target), in_float64(Small(2), clean)
    assert (found - expected).abs().max() <= ROUNDED
    assert (in_float64(Small(2), images(source)) - expected).abs().max() > 3 * ROUNDED
    planned = plan_frames(described(48, 64), config("double", clean=str(cleaner)))
    assert planned.clean_model == "soft" and planned.engine.model == "double"


def described(height: int, width: int) -> VideoInfo:
    return VideoInfo(
        path="", container="", video_stream=0, codec="", width=width, height=height, pixel_format="rgb24", bit_depth=8,
        time_base=media.Fraction(1, 25), color=Color(),
    )  # fmt: skip


def config(model: str, clean: str | None = None) -> UpscaleConfig:
    return UpscaleConfig(compute=ComputeConfig(model=resolve_model(model), device="cpu"), clean=clean)


def test_the_signature_knows_what_cleaned_the_frames(double: Path, cleaner: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3, width=64, height=48)
    with_it, without = config("double", clean=str(cleaner)), config("double")
    found = planning.plan(source, tmp_path / "b.mkv", with_it).written_video.signature
    assert found == str(sign(source, with_it, chosen_weights(with_it)))
    expected = "with another model"  # the option stands for a file, which counts by its content
    assert sign(source, without, chosen_weights(without)).difference(Signature.parse(found)) == expected


def test_a_model_of_scale_1_works_alone_and_before_slow_motion(cleaner: Path) -> None:
    planned = plan_frames(described(48, 64), config(str(cleaner)))
    assert planned.expected.size == (64, 48) and planned.cleaner is None
    slow = plan_frames(described(48, 64), SlowmoConfig(clean=str(cleaner), compute=ComputeConfig(device="cpu")))
    assert (slow.clean_model, slow.model) == ("soft", "zsm-fast")


@pytest.mark.parametrize(("model", "why"), [("double", "a scale of 2"), ("bicubic", "any scale"), ("secnet-fast", "4")])
def test_what_changes_the_size_cannot_clean(double: Path, model: str, why: str) -> None:
    with pytest.raises(
        ModelError, match=f"cannot clean frames, because it has .*{why}: give --clean a model of scale 1"
    ):
        select_cleaner(ComputeConfig(device="cpu"), resolve_model(model), 48, 64)


def test_options_of_the_run_do_not_reach_the_cleaner(cleaner: Path) -> None:
    selection = select_cleaner(ComputeConfig(device="cpu", precision="bf16"), str(cleaner), 48, 64)
    assert (selection.precision, selection.backend, selection.enlargement) == ("fp32", "onnx", 1)
    with pytest.raises(UsageError, match="leave out --precision bf16"):
        chosen(cleaner, 48, 64, precision="bf16")
    assert {cleaner, cleaner.with_suffix(".onnx")} <= set(model_files(str(cleaner)))


# ------------------------------------------------------------------------------------------------------------ memory


def test_memory_is_measured() -> None:
    networks = [Small(1, width) for width in (4, 128)]
    narrow, wide = (bytes_per_pixel(ImageGraph(settings_of(each), graph_of(each), "small")) for each in networks)
    assert wide > 128 * 4 > narrow, "a layer's result has 4 bytes a channel"
    assert wide < 10 * 128 * 4


def test_the_measured_memory_decides_about_tiles(
    double: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = tomllib.loads((own_folder / "double.toml").read_text())["network"]["bytes_per_pixel"]
    joined = JOINED_BYTES_PER_PIXEL * 2000 * 2000
    monkeypatch.setattr("vidsr.engines.tiled.free_memory", lambda device: int(needed * 400 * 400) + joined)
    tile = chosen(own_folder / "double.toml", 1000, 1000, "auto").tile
    assert tile is not None and 0.7 * 400 < tile <= 400
    assert chosen(own_folder / "double.toml", 300, 300, "auto").tile is None


def test_a_tile_is_that_of_the_engine(cleaner: Path) -> None:
    engine = build_engine(chosen(cleaner, 130, 90, 64)).engine
    assert isinstance(engine, TiledEngine) and engine.info.overlap >= 32 and engine.info.multiple_of % 4 == 0


# ----------------------------------------------------------------------------------------------------------- refused


class Wrong(nn.Module):
    """A network that makes something else."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, image: Tensor) -> Tensor:
        if self.kind == "larger on one side":
            return F.interpolate(image, scale_factor=(2.0, 1.0))
        if self.kind == "smaller":
            return F.avg_pool2d(image, 2)
        return F.interpolate(image, scale_factor=16.0)


def external(path: Path) -> Path:
    import onnx

    proto = onnx.load(str(write_graph(path.with_name("inner.onnx"), Small(1, width=64))))
    onnx.save(proto, str(path), save_as_external_data=True, location="elsewhere.bin", size_threshold=0)
    return path


REFUSED = {
    "text": (lambda path: path.write_text("no graph") and path, "is not an ONNX file"),
    "nothing": (lambda path: path.write_bytes(b"") + 1 and path, "is not an ONNX file"),
    "absent": (lambda path: path, "does not exist"),
    "gray": (lambda path: write_graph(path, nn.Conv2d(1, 1, 3, padding=1), channels=1), "1 channels"),
    "too large a size": (lambda path: write_graph(path, Small(1), fixed=(16, 528)), "528x16 only"),
    "another file": (external, "keeps its weights in another file"),
    "one side": (lambda path: write_graph(path, Wrong("larger on one side")), "1 to 8 times the size"),
    "smaller": (lambda path: write_graph(path, Wrong("smaller")), "1 to 8 times the size"),
    "sixteen times": (lambda path: write_graph(path, Wrong("sixteen")), "1 to 8 times the size"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_such_graph_is_refused(kind: str, tmp_path: Path, own_folder: Path) -> None:
    make, message = REFUSED[kind]
    before = sorted(own_folder.rglob("*"))
    result = vidsr("models", "import", make(tmp_path / "a.onnx"))
    assert result.exit_code == 5 and message in " ".join(result.stderr.split()), result.stderr
    assert sorted(own_folder.rglob("*")) == before and result.stdout == ""


@pytest.mark.parametrize("name", ["secnet-fast", "bicubic", "auto", "../up", "face-detector", ".hidden"])
def test_names_that_mean_something_else_are_refused(name: str, tmp_path: Path) -> None:
    result = vidsr("models", "import", name, write_graph(tmp_path / "a.onnx", Small(1)))
    assert result.exit_code == 2 and "name" in result.stderr


def test_a_file_that_was_not_imported_says_how(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 3)
    file = write_graph(tmp_path / "un known.onnx", Small(2, width=5))
    for option in ("--model", "--clean"):
        result = vidsr("upscale", source, tmp_path / "b.mp4", option, file)
        assert result.exit_code == 5 and f"vidsr models import '{file}'" in " ".join(result.stderr.split())
    assert vidsr("upscale", source, tmp_path / "b.mp4", "--model", tmp_path / "no.pth").exit_code == 5
    assert not (tmp_path / "b.mp4").exists()


def test_an_earlier_import_stays_unless_it_may_be_replaced(double: Path, own_folder: Path) -> None:
    before = (own_folder / "double.toml").read_bytes()
    result = vidsr("models", "import", double)
    assert result.exit_code == 4 and "--overwrite" in result.stderr
    assert (own_folder / "double.toml").read_bytes() == before


def test_a_damaged_graph_and_a_false_card_are_refused(double: Path, own_folder: Path, tmp_path: Path) -> None:
    content, card = (own_folder / "double.onnx").read_bytes(), (own_folder / "double.toml").read_text()
    golden = (own_folder / "double.golden.npz").read_bytes()
    (tmp_path / "double.golden.npz").write_bytes(golden)
    for graph, text, message in (
        (content[:-1] + b"x", card, "SHA-256 differs"),
        (content, card.replace("scale = 2", "scale = 3"), "not 3 times the size"),
        (content, card.replace('colors = "RGB', 'colors = "BGR'), "'colors' must be"),
        (content, card.replace("fixed_height = 0", "fixed_height = 48"), "fixed sides are both 0"),
    ):
        (tmp_path / "double.onnx").write_bytes(graph)
        (tmp_path / "double.toml").write_text(text)
        with pytest.raises(ModelError, match=message):
            enlarged(chosen(tmp_path / "double.toml", 20, 30), noise(20, 30))
