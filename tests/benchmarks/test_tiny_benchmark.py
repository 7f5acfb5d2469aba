"""The table of tiny faces: its targets, what is said without weights, and fair comparisons of Attention-FH's boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from benchmarks.faces import attention, tiny_cost, tiny_restoration
from benchmarks.faces.attention import POLICY, RANDOM, SEQUENCE, WHOLE, as_json, box_figures, on_whole_faces
from benchmarks.faces.scores import Figure, table
from benchmarks.faces.tiny_restoration import BICUBIC, TWICE, Scores, landmark_ratio, side_figures, target_figures
from tests.support.tiny_networks import attention_fh_network
from vidsr.faces.yunet import Yunet
from vidsr.nets.attention_fh.boxes import masks, rectangles, sequential_actions
from vidsr.nets.layers.resize import resize
from vidsr.train.degrade import degrade_bi

NO_DETECTOR = cast(Yunet, None)
NAN = float("nan")


def scores(psnr: float, vt: float, flicker: float, errors: list[float]) -> Scores:
    return Scores([psnr - 1, psnr + 1], [vt, vt], [flicker, flicker], errors)


def test_targets_are_met_where_they_are_met() -> None:
    """Two sides; the error is compared where both find the face: 6 and 12 of 10 and 20."""
    found = [
        {
            BICUBIC: scores(26.0, 0.8, 2.0, [10, 20, NAN]), TWICE: scores(27.8, 0.8, 2.0, [9, 9, 9]),
            "afresh": scores(28.0, 0.81, 2.2, [7, 7, 7]), "fed": scores(28.2, 0.82, 1.9, [6, 12, 40]),
        },
        {
            BICUBIC: scores(25.0, 0.7, 2.0, [10, 20, 30]), TWICE: scores(27.0, 0.8, 2.0, [9, 9, 9]),
            "afresh": scores(26.8, 0.7, 2.2, [7, 7, 7]), "fed": scores(27.0, 0.66, 1.9, [6, 12, NAN]),
        },
    ]  # fmt: skip
    figures = list(target_figures(found, "afresh", "fed"))
    assert [figure.value for figure in figures] == pytest.approx([2.1, 0.2, -0.01, -0.1, 0.6, 0.2])
    assert [figure.is_met for figure in figures] == [True, False, False, True, True, None]
    assert landmark_ratio([found[0][BICUBIC]], [found[0]["fed"]]) == (pytest.approx(0.6), 2)
    assert np.isnan(landmark_ratio([Scores(errors=[NAN])], [Scores(errors=[1.0])])[0])
    rows = list(side_figures(12.0, found[0]))
    assert rows[0].text.startswith("26.00 dB (+0.00)") and "15.0 % (1 not found)" in rows[0].text
    assert rows[3].text.startswith("28.20 dB (+2.20)")


def test_without_weights_the_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is made up; what needs no weights is measured."""
    (tmp_path / "eval" / "faces").mkdir(parents=True)
    missing = str(tmp_path / "none.toml")
    monkeypatch.setattr(tiny_restoration, "SIDES", ())
    figures = [
        *tiny_restoration.measure(tmp_path, NO_DETECTOR, missing),
        *tiny_cost.measure(tmp_path, tmp_path / "detector.onnx", NO_DETECTOR, missing),
        *attention.measure(tmp_path, NO_DETECTOR, missing),
    ]
    assert len(figures) == len(tiny_restoration.TARGETS) + 1 + 4
    assert all(figure.is_met is None and np.isnan(figure.value) for figure in figures)
    assert all(figure.text.startswith("not measured: ") and "none.toml" in figure.text for figure in figures)
    assert [entry["value"] for entry in json.loads(as_json(figures))] == [None] * len(figures)
    assert table(figures).count("| not measured: ") == len(figures)


def test_a_whole_face_is_one_box_over_all_pixels() -> None:
    network = attention_fh_network("fast")
    whole = on_whole_faces(network)
    boxes, is_whole = attention.systems()[WHOLE]
    actions = boxes(whole, 3)
    assert is_whole and actions is not None and len(actions) == 3
    assert masks(rectangles(actions[0], whole.config), 20, 28).min() == 1
    assert network.config.grid > 1, "the network itself is as before"
    low = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (step,) = whole.steps(low, actions[:1])
        torch.testing.assert_close(step.image, step.enhanced)


def test_all_systems_do_the_same_work_and_the_policy_is_compared_with_each() -> None:
    network = attention_fh_network("fast", steps=3)
    generator = torch.Generator().manual_seed(2)
    truths = [resize(torch.rand(1, 3, 6, 6, generator=generator), (32, 32)).clamp(0, 1) for _ in range(2)]
    faces = [(degrade_bi(truth, 4), truth) for truth in truths]
    figures = {figure.what: figure for figure in box_figures(faces, network, None, 4, "faces")}
    names = (POLICY, SEQUENCE, RANDOM, WHOLE)
    work = {figures[f"Attention-FH: {name}"].text.rsplit(", ", 1)[1] for name in names}
    assert len(work) == 1 and work.pop().endswith("G multiply-adds")
    for name in names[1:]:
        gain = figures[f"Attention-FH: {POLICY}"].value - figures[f"Attention-FH: {name}"].value
        assert figures[f"Attention-FH: {POLICY} over {name}"].value == pytest.approx(gain) and gain != 0
    in_sequence = attention.systems()[SEQUENCE][0](network, 4)
    assert in_sequence is not None
    covered = torch.stack([masks(rectangles(each, network.config), 16, 16) for each in in_sequence]).amax(0)
    fewer = [sequential_actions(1, step, network.config) for step in range(3)]
    own = torch.stack([masks(rectangles(each, network.config), 16, 16) for each in fewer])
    assert covered.mean() >= own.amax(0).mean()


def test_boxes_chosen_anew_are_those_of_the_frame() -> None:
    """And kept ones are those of the first."""
    from tests.laws.test_attended_faces import CROP, deciding_network, frames_of

    frames = frames_of([(40, 30, 12)] * 4)
    for kind, count in ((attention.AttentionFaceEngine, 1), (attention.Afresh, 2)):
        engine, boxes = kind(deciding_network(), torch.device("cpu"), "fp32"), []
        state = engine.init_state()
        for frame in frames:
            ready, state = engine.step(frame, {1: CROP}, state)
            boxes.append(ready[1].boxes)
        assert (len(set(boxes)) >= 2) == (count == 2)


def test_the_table_shows_what_was_not_measured() -> None:
    assert "| not measured: why |" in table([Figure("a", "b", NAN, "not measured: why", ">= 1")])
