"""What a run has seen of its input so far: scenes and faces, also after an interruption."""

from __future__ import annotations

from fractions import Fraction

import torch

from vidsr.pipeline.run import InputCount
from vidsr.pipeline.sightings import Sightings
from vidsr.stages.base import restore_state, save_state
from vidsr.types import Face, Frame, RunReport


def report() -> RunReport:
    return RunReport("a", "b", "none", None, "cpu", "fp32")


def frame(number: int, *faces: tuple[int, float], starts_scene: bool = False) -> Frame:
    """A frame with faces, each of a track and with a side in pixels."""
    found = tuple(Face((0.0, 0.0, side, side), (), 1.0, track) for track, side in faces)
    return Frame(torch.zeros(3, 4, 4), number, Fraction(1, 25), starts_scene=starts_scene, faces=found)


def test_scenes_tracks_and_the_area_of_faces_that_are_restored() -> None:
    seen = Sightings()
    stage = InputCount(report(), seen, largest_face=100.0)
    stage.process(frame(0, (1, 10.0), (2, 20.0), starts_scene=True))
    stage.process(frame(1, (1, 10.0), (3, 101.0)))
    stage.process(frame(2, starts_scene=True))
    assert seen == Sightings([0, 2], {1, 2, 3}, 100.0 + 400.0 + 100.0)


def test_a_run_that_goes_on_has_seen_what_the_interrupted_one_saw() -> None:
    seen = Sightings()
    stage = InputCount(report(), seen, largest_face=100.0)
    stage.process(frame(0, (1, 10.0), starts_scene=True))
    saved = save_state(stage, None)
    stage.process(frame(1, (2, 10.0), starts_scene=True))
    again, later = Sightings(), report()
    restored = InputCount(later, again, largest_face=100.0)
    restore_state(restored, saved)
    assert (again, later.frames_in, later.scenes) == (Sightings([0], {1}, 100.0), 1, 1)
    restored.process(frame(1, (2, 10.0), starts_scene=True))
    assert again == seen
