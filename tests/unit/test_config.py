"""Every configuration rejects invalid values on construction with a one-line error, and accepts valid ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsr import config as c
from vidsr.errors import UsageError

NAN, INF = math.nan, math.inf
CONFIGS = [
    kind
    for kind in vars(c).values()
    if isinstance(kind, type) and issubclass(kind, c.Checked) and dataclasses.is_dataclass(kind)
]
# Invalid values of each field by option name, besides values of types that no field accepts.
WRONG: dict[str, list[Any]] = {
    "--start": [Fraction(-1), 0.5, "0:10", True, NAN],
    "--end": [Fraction(-1), 0.5, "0:10", True, INF, 0],
    "--rate": [0, -1, 0.5, "25", True, INF, Fraction(1, 1001), 1001],
    "--input-format": ["", 5, True],
    "--input-size": [(0, 0), (64,), [64, 48], "64x48", (True, True)],
    "--input-pix-fmt": ["", 5, True],
    "--decoder": ["", "nvdec", "cuda:x", 5, None],
    "--output-format": ["mkv", "Y4M", None, True],
    "--quality": [0, 101, 50.0, "50", True, NAN],
    "--codec": ["", 5, None, True],
    "--crf": [NAN, INF, "18", True],
    "--preset": ["", 5],
    "--pix-fmt": ["", 5, None],
    "--encoder-option": [[("a", "b")], (("a",),), (("a", 1),), (("", "b"),), ("ab",), "a=b", None, {"a": "b"}],
    "--audio": ["cpoy", "Copy", "", 1],
    "--subtitles": ["cpoy", "stretch", None, ""],
    "--overwrite": [1, 0, "yes", None],
    "--scale": [0, 0.5, 8.5, -2, NAN, INF, "2", True],
    "--size": [(0, 0), (64, -1), (64,), (64, 48, 3), [64, 48], "64x48", (64.0, 48.0), (True, True)],
    "--height": [0, -1, 48.0, "48", True],
    "--model": ["", None, 4, Path("card.toml")],
    "--device": ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:²", "cpu:0", "CPU", "cuda:0\n", None, 0],
    "--precision": ["fp8", "FP32", None, 32],
    "--threads": [-1, 257, 2.0, "2", True, None],
    "--tile": [0, 63, -64, 128.0, "128", "some", True, None],
    "--backend": ["tensorrt", None, "ONNX"],
    "--scenes": ["Auto", "on", None, False],
    "--scene-threshold": [-1, 256, NAN, INF, "27", True, None],
    "--face-detector": ["f.onnx", 1, True],
    "--min-face": [7.9, 0, -16, NAN, INF, "16", True, None],
    "every": [0, -1, 2.0, True, None],
    "--faces": [1, 0, "yes"],
    "--face-strength": [-0.1, 1.1, 7.0, NAN, INF, "1", True, None],
    "largest": [0, 7.9, NAN, INF, True, None],
    "--deblur": [-0.1, 1.1, NAN, INF, "1", "Auto", "", True, None],
    "--denoise": [-0.1, 1.1, NAN, INF, "1", "off", True, None],
    "--deblock": [-0.1, 1.1, NAN, INF, "1", "off", True, None],
    "--face-embedding": ["", None, 4, Path("a.onnx")],
    "--face-model": ["", None, 4, Path("card.toml")],
    "--reference": ["ANNA=a.jpg", [("ANNA", Path("a.jpg"))], (("ANNA", "a.jpg"),), (("", Path("a.jpg")),), None],
    "--reference-strength": [-0.1, 1.1, NAN, INF, "1", True, None],
    "--face-boxes": [0, 65, -1, 8.0, "8", True],
    "--max-faces": [0, -1, 8.0, "8", True, None],
    "--clean": ["", 4, True, Path("card.toml")],
    "--dust": ["on", "Repair", None, True],
    "--dpi": [49, 4801, NAN, INF, "600", True],
    "--strict": [1, None, "yes"],
    "--resume": [1, 0, "yes"],
    "--segment-frames": [0, -1, 2.0, "2", True, None],
    "--interp": [1, 0, 3, 16, 2.0, "2", True, None],
    "--keep-duration": [1, None, "yes"],
    "--duplicates": ["Auto", "on", None, True],
    "--layout": ["Side", "row", "", None, True],
    "--label": [["a"], "a", ("",), (1,), None],
    # Nested configurations.
    "input": [None, c.OutputConfig()],
    "output": [None, c.InputConfig()],
    "size": [None, (64, 48)],
    "compute": [None, "cpu"],
    "scenes": [None, "off"],
    "faces": [None, True, c.SceneConfig()],
    "cleaning": [None, "auto", 0.5],
}
FIELDS = [(kind, field) for kind in CONFIGS for field in dataclasses.fields(kind)]


def cases() -> Iterator[Any]:
    for kind, field in FIELDS:
        option = field.metadata.get("option", field.name)
        for wrong in [object(), b"2", 2 + 1j, ..., *WRONG[option]]:  # a field that is not listed above is an error
            yield pytest.param(kind, field.name, option, wrong, id=f"{kind.__name__}-{field.name}-{wrong!r:.20}")


@pytest.mark.parametrize(("kind", "name", "option", "wrong"), list(cases()))
def test_a_wrong_value_is_refused_in_one_sentence(kind: type[Any], name: str, option: str, wrong: object) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**{name: wrong})
    sentence = str(caught.value)
    assert sentence.startswith(f"{option} must ") and "\n" not in sentence and not sentence.endswith(".")
    assert len(sentence) < 200


def test_all_configurations_are_seen() -> None:
    assert len(CONFIGS) == 14 and {c.UpscaleConfig, c.SlowmoConfig, c.FindFacesConfig} <= set(CONFIGS)
    assert {field.metadata.get("option", field.name) for _, field in FIELDS} == WRONG.keys()


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_configurations_are_frozen_slotted_and_by_keyword_only(kind: type[Any]) -> None:
    made = kind()
    assert not hasattr(made, "__dict__")
    assert all(field.kw_only for field in dataclasses.fields(kind))
    with pytest.raises(TypeError):
        kind(None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(kind)[0].name, None)


def test_the_sentence_names_the_option_and_the_value() -> None:
    with pytest.raises(UsageError) as caught:
        c.RestoreConfig(strength=7)
    assert str(caught.value) == "--face-strength must be a number from 0 to 1, not 7"
    with pytest.raises(UsageError) as caught:
        c.OutputConfig(audio="cpoy")  # type: ignore[arg-type]
    assert str(caught.value) == "--audio must be copy, stretch or none, not 'cpoy'"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: c.SizeConfig(scale=2, height=96), "give only one"),
        (lambda: c.SizeConfig(scale=2, size=(128, 96)), "give only one"),
        (lambda: c.SizeConfig(size=(128, 96), height=96), "give only one"),
        (lambda: c.InputConfig(start=Fraction(2), end=Fraction(1)), r"--end must be later than --start \(2 s\)"),
        (lambda: c.InputConfig(start=Fraction(2), end=Fraction(2)), "--end must be later than --start"),
        (lambda: c.ComputeConfig(backend="onnx", precision="bf16"), "fp32 only"),
        (lambda: c.ComputeConfig(backend="onnx", model="bicubic"), "not a network"),
        (lambda: c.UpscaleConfig(output=c.OutputConfig(audio="stretch")), "--audio stretch is for slow motion"),
        (lambda: c.FindFacesConfig(output=c.OutputConfig(audio="stretch")), "--audio stretch is for slow motion"),
        (lambda: c.SlowmoConfig(output=c.OutputConfig(audio="copy")), "2 times as long.*--keep-duration"),
        (
            lambda: c.UpscaleConfig(compute=c.ComputeConfig(model="bicubic"), faces=c.RestoreConfig(use=True)),
            "leave out --faces",
        ),
    ],
)
def test_values_that_do_not_go_together(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


def test_audio_may_be_copied_where_the_duration_stays() -> None:
    assert c.SlowmoConfig(output=c.OutputConfig(audio="copy"), keep_duration=True).stretch == 1
    assert c.SlowmoConfig(output=c.OutputConfig(audio="stretch"), keep_duration=True).stretch == 1
    assert c.SlowmoConfig(output=c.OutputConfig(crf=18), interp=4).stretch == 4


# ------------------------------------------------------------------------------------------------------- right values

SECONDS = st.fractions(min_value=0, max_value=10**6, max_denominator=10**6)
RIGHT: dict[type[Any], dict[str, Any]] = {
    c.SizeConfig: {"scale": st.none() | st.floats(1, c.LARGEST_SCALE) | st.integers(1, c.LARGEST_SCALE)},
    c.OutputConfig: {
        "codec": st.text(min_size=1),
        "crf": st.none() | st.floats(-100, 100) | st.integers(-100, 100),
        "preset": st.none() | st.text(min_size=1),
        "pix_fmt": st.text(min_size=1),
        "encoder_options": st.lists(st.tuples(st.text(min_size=1), st.text())).map(tuple),
        "audio": st.sampled_from([None, "copy", "stretch", "none"]),
        "subtitles": st.sampled_from(["copy", "none"]),
        "overwrite": st.booleans(),
    },
    c.ComputeConfig: {
        "model": st.text(min_size=1),
        "device": st.sampled_from(["auto", "cpu", "mps", "cuda"]) | st.integers(0, 99).map("cuda:{}".format),
        "precision": st.sampled_from(["auto", "fp32", "fp16", "bf16"]),
        "threads": st.integers(0, c.MAX_THREADS),
        "tile": st.sampled_from(["auto", "off"]) | st.integers(c.SMALLEST_TILE, 10**5),
    },
    c.SceneConfig: {"mode": st.sampled_from(["auto", "off"]), "threshold": st.floats(0, 255)},
    c.RestoreConfig: {
        "detector": st.none() | st.just(Path("f.onnx")),
        "min_face": st.floats(c.SMALLEST_FACE, 10**4),
        "every": st.integers(1, 100),
        "use": st.sampled_from([None, True, False]),
        "strength": st.floats(0, 1),
        "largest": st.floats(c.SMALLEST_FACE, 10**4),
        "max_faces": st.integers(1, 1000),
    },
    c.SlowmoConfig: {
        "interp": st.sampled_from([2, 4, 8]),
        "keep_duration": st.booleans(),
        "duplicates": st.sampled_from(["auto", "off"]),
        "strict": st.booleans(),
    },
}


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_right_values_are_taken_as_they_are(kind: type[Any], data: st.DataObject) -> None:
    values = {name: data.draw(strategy, name) for name, strategy in RIGHT[kind].items()}
    made = kind(**values)
    assert {name: getattr(made, name) for name in values} == values


@given(SECONDS, SECONDS)
def test_a_part_ends_after_its_start(start: Fraction, end: Fraction) -> None:
    if end > start:
        assert c.InputConfig(start=start, end=end) == c.InputConfig(end=end, start=start)
    else:
        with pytest.raises(UsageError, match="--end must be later than"):
            c.InputConfig(start=start, end=end)


# ------------------------------------------------------------------------------------------------- what a user writes


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0", 0),
        ("12.5", "12.5"),
        ("1:02:03.250", "3723.25"),
        ("02:03", 123),
        ("0.1", "0.1"),
        (10, 10),
        (0.1, "0.1"),
        (1e-07, "1e-7"),
        (Fraction(1, 3), "1/3"),
        (None, None),
    ],
)
def test_times_are_exact(written: Any, seconds: Any) -> None:
    assert c.parse_time(written) == (None if seconds is None else Fraction(seconds))


@pytest.mark.parametrize(
    "written", ["", "-1", "1:2:3:4", "1e3", ".5", "5.", "a", "1 2", "inf", "1,5", "٣", "1\n", NAN, INF, True, [1]]
)
def test_what_is_not_a_time(written: Any) -> None:
    with pytest.raises(UsageError, match=r"invalid time .*: use seconds"):
        c.parse_time(written)


def test_a_negative_number_is_a_time_that_no_part_can_start_at() -> None:
    with pytest.raises(UsageError, match="--start must be"):
        c.InputConfig(start=c.parse_time(-1))


@pytest.mark.parametrize("written", ["640x480", (640, 480), [640, 480]])
def test_sizes(written: Any) -> None:
    assert c.parse_size(written) == (640, 480)


@pytest.mark.parametrize(
    "written", ["", "640", "640x", "x480", "640X480", "640x480x3", "-1x5", "1000000x1", "640x480\n", 640, (1, 2, 3)]
)
def test_what_is_not_a_size(written: Any) -> None:
    with pytest.raises(UsageError, match="invalid size"):
        c.parse_size(written)


def test_tiles() -> None:
    assert [c.parse_tile(text) for text in ("auto", "off", "128", 128)] == ["auto", "off", 128, 128]
    for text in ("some", "", "²", "10", "-64"):
        with pytest.raises(UsageError, match="--tile must be"):
            c.ComputeConfig(tile=c.parse_tile(text))


def test_encoder_options() -> None:
    pairs = (("tune", "grain"), ("a", "b=c"))
    assert c.parse_encoder_options(["tune=grain", "a=b=c"]) == pairs
    assert c.parse_encoder_options(pairs) == pairs
    assert c.parse_encoder_options({"tune": "grain", "a": "b=c"}) == pairs
    assert c.parse_encoder_options("a=") == (("a", ""),)
    for wrong in (["crf"], ["=1"], [5]):
        with pytest.raises(UsageError, match=r"invalid encoder option .*: use key=value"):
            c.parse_encoder_options(wrong)  # type: ignore[arg-type]


def test_references_are_pairs_of_a_name_and_a_path() -> None:
    wanted = (("ANNA", Path("a.jpg")), ("3", Path("b=c.jpg")))
    assert c.parse_references(["ANNA=a.jpg", "3=b=c.jpg"]) == wanted
    assert c.parse_references({"ANNA": "a.jpg", 3: [Path("b=c.jpg")]}) == wanted
    assert c.parse_references([("ANNA", "a.jpg"), (3, Path("b=c.jpg"))]) == wanted
    assert c.parse_references("ANNA=a.jpg") == wanted[:1] and c.parse_references(()) == ()
    for wrong in ("ANNA", "=a.jpg", "0=a.jpg", "-1=a.jpg", "ANNA=", ("ANNA",), (True, "a.jpg"), ("ANNA", None)):
        with pytest.raises(UsageError, match="reference"):
            c.parse_references([wrong])  # type: ignore[list-item]
