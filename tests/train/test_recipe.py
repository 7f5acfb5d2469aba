"""Recipes: the shipped ones load, and every error message names the mistake."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vidsr.errors import ModelError, UsageError
from vidsr.models.registry import build
from vidsr.train.detector.recipe import is_detector_recipe
from vidsr.train.loop import task_of
from vidsr.train.recipe import (
    DataConfig,
    DegradationConfig,
    GuidanceConfig,
    OptimizationConfig,
    Recipe,
    load_recipe,
)

RECIPES = sorted((Path(__file__).parents[2] / "models" / "recipes").glob("*.toml"))
SHIPPED = [path for path in RECIPES if not is_detector_recipe(path)]
HEAD = 'name = "a"\nsummary = "b"\narchitecture = "secnet"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_recipes_are_shipped() -> None:
    assert "secnet-fast" in {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_builds_its_network(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert set(recipe.data.licence_classes) <= {"A", "B"}, "shipped weights are trained on classes A and B only"
    build(recipe.architecture, recipe.network)


def test_missing_settings_have_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, HEAD))
    assert recipe == Recipe(name="a", summary="b", architecture="secnet")
    assert (recipe.data, recipe.degradation) == (DataConfig(), DegradationConfig())
    assert recipe.optimisation == OptimizationConfig()


def test_every_value_is_read(tmp_path: Path) -> None:
    text = HEAD + (
        "seed = 5\n[network]\nflow_width = 8\n[data]\ncrop = 64\nshare_faces = 2\nlicence_classes = ['A']\n"
        "[degradation]\nblur_sigma = [1, 1.5]\njpeg_quality = [60, 61]\n[optimisation]\nlearning_rate = 1e-4\n"
    )
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.seed == 5 and recipe.network == {"flow_width": 8}
    assert recipe.data == dataclasses.replace(DataConfig(), crop=64, share_faces=2, licence_classes=("A",))
    assert recipe.degradation == dataclasses.replace(DegradationConfig(), blur_sigma=(1, 1.5), jpeg_quality=(60, 61))
    assert recipe.optimisation == dataclasses.replace(OptimizationConfig(), learning_rate=1e-4)
    assert recipe.guidance is None
    guided = load_recipe(write(tmp_path, HEAD + "[guidance]\nlambda_3 = 0.125"))
    assert guided.guidance == dataclasses.replace(GuidanceConfig(), lambda_3=0.125)


@pytest.mark.parametrize("missing", ["name", "summary", "architecture"])
def test_required_settings(tmp_path: Path, missing: str) -> None:
    text = "".join(line + "\n" for line in HEAD.splitlines() if not line.startswith(missing))
    with pytest.raises(UsageError, match=rf"recipe\.toml is incomplete: '{missing}' is missing"):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    "text, where",
    [
        ("sead = 3", "recipe.toml has"),
        ("[guidance]\nlambda = 1", r"\[guidance\] has"),
        ("[data]\ncorp = 3", r"\[data\] has"),
        ("[optimisation]\nlr = 3", r"\[optim"),
    ],
)
def test_unknown_keys_are_named(tmp_path: Path, text: str, where: str) -> None:
    key = text.split(" = ")[0].split("\n")[-1]
    with pytest.raises(UsageError, match=rf"{where}.*unknown key '{key}'; known are "):
        load_recipe(write(tmp_path, HEAD + text))


@pytest.mark.parametrize(
    "text",
    [
        "seed = 1.5",
        "seed = true",
        'seed = "1"',
        "network = 3",
        "data = 3",
        "guidance = 3",
        "[guidance]\nlambda_1 = true",
        "[data]\ncrop = 160.0",
        "[data]\nshare_faces = true",
        '[data]\nshare_faces = "half"',
        "[data]\nshare_faces = nan",
        '[data]\nlicence_classes = "AB"',
        "[data]\nlicence_classes = [1]",
        "[degradation]\nblur_sigma = 1.5",
        "[degradation]\nblur_sigma = [1.5]",
        '[degradation]\nblur_sigma = ["a", "b"]',
        "[degradation]\njpeg_quality = [1.5, 2]",
        "[optimisation]\nlearning_rate = inf",
        "[optimisation]\nsteps = [1]",
    ],
)
def test_wrong_types_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"recipe\.toml.* must be (of type|a table)"):
        load_recipe(write(tmp_path, HEAD + text))


@pytest.mark.parametrize("size", ["2.5", '"wide"', "true", "[1]", "0", "-1"])
def test_the_architecture_refuses_invalid_sizes(tmp_path: Path, size: str) -> None:
    recipe = load_recipe(write(tmp_path, HEAD + f"[network]\nflow_width = {size}"))
    with pytest.raises(ModelError, match="the architecture 'secnet'"):
        build(recipe.architecture, recipe.network)


def test_a_network_may_have_sizes_switches_and_names(tmp_path: Path) -> None:
    text = '[network]\ndetail_widths = [8, 12]\nattention = true\nt3 = 3\nencoding = "cascaded"\naligned = false'
    config = build("secnet", load_recipe(write(tmp_path, HEAD + text)).network).config
    assert (config.detail_widths, config.attention, config.encoding) == ((8, 12), True, "cascaded")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_train_its_network(path: Path) -> None:
    """For example, its clips are as long as the network's window."""
    recipe = load_recipe(path)
    network = build(recipe.architecture, recipe.network)
    task_of(network).check(network, recipe)


def test_a_name_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'name' must be of type str, not 3"):
        load_recipe(write(tmp_path, HEAD.replace('"a"', "3")))


@pytest.mark.parametrize(
    "text",
    [
        "[data]\ncrop = 36",
        "[data]\ncrop = 0",
        "[data]\nframes = 0",
        "[data]\nbatch = 0",
        "[data]\nshare_faces = 0\nshare_general = 0\nshare_stills = 0\nshare_face_stills = 0",
        "[data]\nshare_face_stills = -1",
        "[data]\nshare_faces = -1",
        "[degradation]\nweight_bicubic = 0\nweight_blur = 0\nweight_area = 0",
        "[optimisation]\nsteps = 0",
        "[guidance]\nlambda_2 = -1",
        "[optimisation]\nvalidate_every = 0",
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"recipe\.toml: .* must (be|not be)"):
        load_recipe(write(tmp_path, HEAD + text))


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the recipe .*none\.toml: No such file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="is not a regular file"):
        load_recipe(tmp_path)
    for content in (b"name = ", b"\xff\xfe", b"<html>"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(UsageError, match=r"bad\.toml is not valid TOML"):
            load_recipe(tmp_path / "bad.toml")
