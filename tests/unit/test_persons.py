"""Who is who: the multi-column head against its equations, clusters, which faces are embedded, and embedding files."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.support.dlib_files import computed, random_layers, write_dlib
from tests.support.sface_files import expected, write_sface
from vidsr.errors import ModelError
from vidsr.faces.detector import View
from vidsr.faces.embedding import (
    DLIB_POINTS,
    SFACE_POINTS,
    SFACE_SIDE,
    SFACE_THRESHOLD,
    Dlib,
    SFace,
    choose_embedding,
    dlib_file,
    load_embedding,
)
from vidsr.faces.heads import FOLDER, Head, plain_head, read_head, shipped_head
from vidsr.faces.persons import EVERY, MOST_VECTORS, TrackEmbeddings, find_persons, similarity, upright_face
from vidsr.types import Face, Frame, Person

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
N, K = 5, 2


def random_head(seed: int = 1) -> Head:
    random = np.random.default_rng(seed)
    shapes = N, N, 2 * N, (N, N), (K, N)
    mean, quality, content, whitening, slopes = (random.normal(size=shape) for shape in shapes)
    return Head(mean, quality, content, (0.3, -0.2), 0.5, slopes, np.array([[-0.5, 1.0], [0.2, 2.0]]), whitening)


def by_equations(head: Any, vectors: Any) -> Any:
    """Number by number."""
    units = []
    for row in vectors:
        qualities = [min(max(row[N + j], head.limits[j][0]), head.limits[j][1]) for j in range(K)]
        means = [head.mean[k] + sum(qualities[j] * head.slopes[j][k] for j in range(K)) for k in range(N)]
        centered = [row[k] - means[k] for k in range(N)]
        length = math.sqrt(sum(each * each for each in centered))
        units.append([each / length for each in centered])

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    alpha = [sigmoid(sum(unit[k] * head.quality[k] for k in range(N)) + head.biases[0]) for unit in units]
    middle = [sum(a * unit[k] for a, unit in zip(alpha, units, strict=True)) / sum(alpha) for k in range(N)]
    weights = []
    for a, unit in zip(alpha, units, strict=True):
        pair = unit + middle
        weights.append(a * sigmoid(sum(pair[k] * head.content[k] for k in range(2 * N)) + head.biases[1]))
    total = [sum(w * unit[k] for w, unit in zip(weights, units, strict=True)) for k in range(N)]
    turned = [sum(head.whitening[row][k] * total[k] for k in range(N)) for row in range(N)]
    length = math.sqrt(sum(each * each for each in turned))
    return [each / length for each in turned]


def test_the_head_is_that_of_its_equations() -> None:
    head, vectors = random_head(), np.random.default_rng(2).normal(size=(4, N + K))
    qualities = vectors[:, N:]
    assert (qualities < head.limits[:, 0]).any() and (qualities == qualities.clip(*head.limits.T)).any()
    np.testing.assert_allclose(head.combined(vectors), by_equations(head, vectors), atol=1e-12)
    assert head.weights(vectors).sum() == pytest.approx(1) and np.ptp(head.weights(vectors)) > 0.05
    plain = plain_head(N, 0.5)
    np.testing.assert_allclose(plain.weights(vectors[:, :N]), np.full(4, 0.25))


def test_the_shipped_head_is_read_and_a_changed_one_refused(tmp_path: Path) -> None:
    head = shipped_head("dlib")
    assert head.mean.shape == head.quality.shape == (128,) and head.content.shape == (256,)
    assert 0 < head.threshold < 1
    assert head.slopes.shape == (2, 128) and (head.limits[:, 0] < head.limits[:, 1]).all()
    assert head.whitening is not None and head.whitening.shape == (128, 128)
    assert not np.tril(head.whitening, -1).any() and np.diag(head.whitening).min() > 0
    text = (FOLDER / "dlib.toml").read_text()
    changed = tmp_path / "head.toml"
    changed.write_text(text.replace("threshold = 0.", "threshold = 0.1"))
    assert changed.read_text() != text
    with pytest.raises(ModelError, match="does not hold the numbers that it was written with"):
        read_head(changed)


def unit(*angles: float) -> dict[int, Any]:
    """Tracks 1, 2, ... at these angles in degrees."""
    return {
        number: np.array([math.cos(math.radians(a)), math.sin(math.radians(a))]) for number, a in enumerate(angles, 1)
    }


def test_similar_tracks_are_one_person_with_the_number_of_the_first() -> None:
    found = find_persons(unit(0, 90, 5, 200, 95, 355), set(), 0.9)
    assert found == (Person(1, (1, 3, 6)), Person(2, (2, 5)), Person(4, (4,)))
    assert find_persons({}, set(), 0.9) == () and find_persons(unit(7), set(), 0.9) == (Person(1, (1,)),)


def test_tracks_that_are_visible_together_are_never_one_person() -> None:
    """Also where a third track, similar to both, could join them."""
    found = find_persons(unit(0, 2, 1), {(1, 2)}, 0.9)
    assert sorted(len(person.tracks) for person in found) == [1, 2]
    assert not any({1, 2} <= set(person.tracks) for person in found)
    many = find_persons(unit(*[0.01 * k for k in range(40)]), {(20, 21)}, 0.5)
    assert len(many) == 2 and not any({20, 21} <= set(person.tracks) for person in many)


def test_groups_are_compared_by_the_mean_of_all_pairs() -> None:
    """Average link: 0, 20 and 40 degrees; the third is near the second, but not near both."""
    tracks, near = unit(0, 20, 40), math.cos(math.radians(20))
    mean = (near + math.cos(math.radians(40))) / 2
    assert [each.tracks for each in find_persons(tracks, set(), mean - 1e-6)] == [(1, 2, 3)]
    assert len(find_persons(tracks, set(), mean + 1e-6)) == 2
    assert similarity(tracks, Person(1, (1, 2)), tracks[3]) == pytest.approx(mean)


class Counting:
    """Embeds the mean color, and keeps what it was given."""

    def __init__(self) -> None:
        self.head = plain_head(3, 0.9)
        self.given: list[tuple[Any, Any]] = []

    def embed(self, image: Any, points: Any) -> Any:
        self.given.append((image, points))
        return image.reshape(-1, 3).mean(0).astype(float)


POINTS = ((20.0, 14.0), (28.0, 14.0), (24.0, 18.0), (21.0, 22.0), (27.0, 22.0))


def frame_of(tracks: tuple[int, ...], number: int = 0) -> Frame:
    image = torch.zeros(3, 48, 64)
    image[0, :, :32], image[1, :, 32:] = 1, 1
    faces = tuple(
        Face((16.0 + 30 * k, 8.0, 16.0, 20.0), tuple((x + 30 * k, y) for x, y in POINTS), 0.9, track)
        for k, track in enumerate(tracks)
    )
    return Frame(image, number, Fraction(1, 25), 1, number == 0, faces)


def test_every_second_frame_of_a_track_is_embedded() -> None:
    counting = Counting()
    stage = TrackEmbeddings(counting, View())
    for number in range(2 * EVERY + 1):
        frame = frame_of((1, 2) if number % 2 else (1,), number)
        assert stage.process(frame) is frame
    vectors = stage.vectors
    assert (len(vectors[1]), len(vectors[2])) == (3, 1)
    assert stage.together == {(1, 2)} and len(counting.given) == 4
    assert stage.persons() == (Person(1, (1,)), Person(2, (2,)))


def test_a_long_track_keeps_few_vectors_evenly() -> None:
    counting = Counting()
    stage, frame = TrackEmbeddings(counting, View()), frame_of((1,))
    counts = []
    for _ in range(EVERY * MOST_VECTORS * 64):
        stage.process(frame)
        counts.append(len(counting.given))
    # From the first time that there are twice as many, each doubling of the length adds as many again.
    assert [counts[EVERY * MOST_VECTORS * k - 1] for k in (2, 4, 8, 16, 32)] == [MOST_VECTORS * k for k in range(2, 7)]
    assert MOST_VECTORS <= len(stage.vectors[1]) <= 2 * MOST_VECTORS


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_part_around_a_face_is_upright_and_its_points_are_in_it(quarters: int) -> None:
    """The pixel under each point is the same in the frame as coded and in the part."""
    random = np.random.default_rng(3)
    image = torch.from_numpy(random.integers(0, 256, (3, 60, 80)).astype(np.float32) / 255)
    points = [(30.5, 20.5), (38.5, 21.5), (34.5, 26.5), (31.5, 30.5), (37.5, 31.5)]
    face = Face((26.0, 16.0, 16.0, 20.0), ((0.0, 0.0),) * 5, 0.9, 1, smoothed=tuple(points))
    frame = replace(frame_of(()), image=image)
    part, found = upright_face(frame, face, View(quarters))
    for (x, y), (u, v) in zip(points, found, strict=True):
        wanted = (image[:, int(y), int(x)] * 255).round().numpy()
        np.testing.assert_array_equal(part[int(v), int(u)], wanted)


def test_sface_sees_the_aligned_face_in_rgb(tmp_path: Path) -> None:
    network = SFace(write_sface(tmp_path / "sface.onnx"), CPU, 1)
    image = np.random.default_rng(4).integers(0, 256, (SFACE_SIDE, SFACE_SIDE, 3), np.uint8)
    np.testing.assert_allclose(network.embed(image, SFACE_POINTS), expected(image), atol=1e-5)
    doubled = image.repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(network.embed(doubled, 2 * SFACE_POINTS), expected(image), atol=2e-3)
    assert network.head.threshold == SFACE_THRESHOLD


@pytest.mark.parametrize(("length", "side"), [(64, 112), (128, 96)])
def test_a_file_with_another_interface_is_refused(tmp_path: Path, length: int, side: int) -> None:
    path = write_sface(tmp_path / "other.onnx", length, side)
    with pytest.raises(ModelError, match="does not have SFace's interface"):
        SFace(path, CPU, 1).embed(np.zeros((112, 112, 3), np.uint8), SFACE_POINTS)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ModelError, match="not an ONNX file"):
        SFace(tmp_path / "text.onnx", CPU, 1)


def test_an_embedding_is_chosen_without_loading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_embedding("off") is None
    path = write_sface(tmp_path / "a.onnx")
    chosen = choose_embedding(str(path))
    assert chosen is not None and (chosen.kind, chosen.path, chosen.description) == ("sface", path, "a.onnx")
    with pytest.raises(ModelError, match=r"missing.onnx does not exist"):
        choose_embedding(str(tmp_path / "missing.onnx"))
    monkeypatch.setattr("vidsr.faces.embedding.files", lambda name: None)
    assert choose_embedding("auto") is None


def test_dlibs_network_is_that_of_its_definition(tmp_path: Path) -> None:
    layers = random_layers(6)
    network = Dlib(write_dlib(tmp_path / "dlib.dat", layers), plain_head(128, 0.5))
    image = np.random.default_rng(7).integers(0, 256, (150, 150, 3), np.uint8)
    wanted = (computed(layers, image) + computed(layers, image[:, ::-1])) / 2
    found = network.embed(image, DLIB_POINTS)
    np.testing.assert_allclose(found[:128], wanted, atol=1e-4 * np.abs(wanted).max())
    around = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    curves = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * around[1:-1, 1:-1]
    np.testing.assert_allclose(found[128:], [0, np.log(1 + curves.var())], atol=1e-9)
    twice = network.embed(cv2.resize(image, (300, 300)), 2 * DLIB_POINTS)
    assert twice[128] == pytest.approx(math.log(2)) and twice[129] < found[129]


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_file_that_is_not_dlibs_network_is_refused(damage: str, tmp_path: Path) -> None:
    layers = random_layers(8)
    path = write_dlib(tmp_path / "dlib.dat", layers[:-1] if damage == "missing" else layers)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    if damage == "other":
        path.write_bytes(b"no network")
    with pytest.raises(ModelError, match="not dlib's recognition network"):
        Dlib(path, plain_head(128, 0.5))


@pytest.mark.skipif(dlib_file() is None, reason="the extra `identity` is not installed")
def test_the_vectors_are_those_of_dlib() -> None:
    dlib = pytest.importorskip("dlib", reason="dlib-bin is not installed")
    chosen = choose_embedding("auto")
    assert chosen is not None and chosen.kind == "dlib"
    image = cv2.resize(np.random.default_rng(5).integers(0, 256, (10, 10, 3), np.uint8), (150, 150))
    found = load_embedding(chosen, CPU, 1).embed(image, DLIB_POINTS)
    network = dlib.face_recognition_model_v1(str(chosen.path))
    sides = image, np.ascontiguousarray(image[:, ::-1])
    wanted = np.mean([np.array(network.compute_face_descriptor(each)) for each in sides], axis=0)
    np.testing.assert_allclose(found[:128], wanted, atol=1e-5)
    assert np.abs(wanted).max() > 0.1
