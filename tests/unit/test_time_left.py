"""The estimate of the time left, on traces of runs: no clock, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from vidsr.pipeline.time_left import MOST_KEPT, Ahead, TimeLeft

FRAMES = 600


def trace(
    cost: Callable[[int], float], faces: Callable[[int], float], start: float = 3.0
) -> Iterator[tuple[float, ...]]:
    """Seconds, frames done and the sum of the areas of faces, or of other extra work, after each frame."""
    seconds, pixels = 3.0, 0.0
    for frame in range(FRAMES):
        seconds, pixels = seconds + cost(frame), pixels + faces(frame)
        yield seconds, frame + 1, pixels


def errors(
    cost: Callable[[int], float],
    faces: Callable[[int], float] = lambda _: 0.0,
    ahead: Callable[[int], Ahead | None] = lambda _: None,
) -> dict[int, float]:
    """How far the estimate is off, relative to the true time left, after each frame.

    `ahead` is what is known of the coming frames when so many are done.
    """
    moments = list(trace(cost, faces))
    end, estimate, wrong = moments[-1][0], TimeLeft(), {}
    for seconds, frames, pixels in moments[:-1]:
        estimate.update(seconds, int(frames), FRAMES, pixels, ahead(int(frames)))
        if (left := estimate.seconds) is not None:
            wrong[int(frames)] = left / (end - seconds) - 1
    return wrong


def noise(frame: int) -> float:
    """From -1 to 1, the same in every run."""
    return ((frame * 7919) % 1009) / 504.5 - 1


def test_frames_that_take_the_same_time_are_estimated_exactly_from_the_second_on() -> None:
    wrong = errors(lambda _: 0.25)
    assert min(wrong) == 2
    assert max(map(abs, wrong.values())) < 1e-9


def test_noise_averages_out() -> None:
    wrong = errors(lambda frame: 0.25 * (1 + 0.9 * noise(frame)))
    assert max(abs(wrong[frame]) for frame in range(100, FRAMES - 50)) < 0.1


def test_a_slow_start_is_forgotten() -> None:
    """30 s at a quarter of the speed, as while other programs start: the mean since the first frame is 58 % off."""
    wrong = errors(lambda frame: 1.0 if frame < 30 else 0.25)
    after_a_minute = 30 + round(30 / 0.25)
    assert max(abs(wrong[frame]) for frame in range(after_a_minute, FRAMES)) < 0.05


def test_a_machine_that_gets_slower_is_noticed_within_its_recent_past() -> None:
    wrong = errors(lambda frame: 0.1 if frame < 300 else 0.2)
    assert abs(wrong[500]) < 0.05


def test_faces_before_count_for_what_comes() -> None:
    """Scenes of 40 frames in turn with and without faces, which triple the time of a frame.

    The recent past alone is up to 56 % off.
    """
    faces = [1000.0 if frame // 40 % 2 else 0.0 for frame in range(FRAMES)]
    wrong = errors(lambda frame: 0.25 * (1 + faces[frame] / 500) * (1 + 0.2 * noise(frame)), faces.__getitem__)
    assert max(abs(wrong[frame]) for frame in range(160, 520)) < 0.2
    without = errors(lambda frame: 0.25 * (1 + faces[frame] / 500) * (1 + 0.2 * noise(frame)))
    assert max(abs(without[frame]) for frame in range(160, 520)) > 0.5


def test_a_slow_scene_without_faces_is_no_matter_of_faces() -> None:
    """Faces everywhere of the same size: the parts of the time cannot be told apart, and need not."""
    wrong = errors(lambda _: 0.25, lambda _: 900.0)
    assert max(map(abs, wrong.values())) < 1e-9


def stop_motion(frame: int) -> float:
    """Images that are interpolated for a frame of a stop motion film: replaced repeats, then plain shots, then cuts."""
    if frame < 300:
        return 1.0 if frame % 3 else 0.0
    return 0.5 if frame < 400 or frame % 2 else 0.0


def test_what_is_known_to_come_counts_in_place_of_what_was() -> None:
    """Repeats that are replaced in the first half alone, and then cuts, across which nothing is interpolated."""

    def cost(frame: int) -> float:
        return (0.05 + 0.5 * stop_motion(frame)) * (1 + 0.2 * noise(frame))

    def known(reach: int) -> Callable[[int], Ahead]:
        """What a reading knows that is at most so many frames ahead."""
        return lambda done: Ahead(
            min(reach, FRAMES - done), sum(map(stop_motion, range(done, min(done + reach, FRAMES))))
        )

    assert sum(map(cost, range(160))) == pytest.approx(60, abs=5)  # about a minute
    worst = {}
    for reach in (0, 200, FRAMES):
        wrong = errors(cost, stop_motion, known(reach))
        worst[reach] = max(abs(wrong[frame]) for frame in range(160, 580))
    assert worst[FRAMES] < 0.12 < worst[200] < 0.5 < worst[0], worst


def test_more_frames_than_the_header_says_are_known_to_come() -> None:
    estimate = TimeLeft()
    estimate.update(5.0, 1, 10)
    estimate.update(10.0, 11, 10, 0.0, Ahead(20, 0.0))
    assert estimate.seconds == pytest.approx(10)


def test_a_frame_without_extra_work_takes_some_time() -> None:
    """Three frames that took less time than two, by noise, with as much extra work: alone they seem to take -0.1 s."""
    estimate = TimeLeft()
    estimate.update(0.0, 0, 100)
    estimate.update(1.0, 2, 100, 1.0)
    estimate.update(1.9, 5, 100, 2.0, Ahead(95, 0.0))
    assert estimate.seconds is not None and 0 < estimate.seconds < 95 * 1.9 / 5


def test_what_is_unknown_is_none() -> None:
    estimate = TimeLeft()
    assert (estimate.seconds, estimate.frames_per_second) == (None, None)
    estimate.update(5.0, 1, 100)
    assert (estimate.seconds, estimate.frames_per_second) == (None, None)
    estimate.update(6.0, 3, None)
    assert estimate.seconds is None and estimate.frames_per_second == 2
    estimate.update(7.0, 5, 4)  # more than the header says
    assert estimate.seconds == 0


def test_frames_of_an_interrupted_run_took_no_time() -> None:
    estimate = TimeLeft()
    estimate.update(2.0, 1001, 2000)
    estimate.update(12.0, 1011, 2000)
    assert estimate.seconds == pytest.approx(989)


def test_long_runs_keep_few_measurements() -> None:
    estimate = TimeLeft()
    for second in range(50_000):
        estimate.update(float(second), second + 1, 100_000)
    assert len(estimate._kept) <= MOST_KEPT
    assert estimate.seconds == pytest.approx(50_000)
