"""Ray: a lost machine changes nothing, errors keep their codes, machines that would compute otherwise are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
import torch
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.config import ComputeConfig, OutputConfig, RestoreConfig, SceneConfig, SizeConfig, UpscaleConfig
from vidsr.errors import DeviceError, InputError
from vidsr.pipeline import degradation, ray_cluster
from vidsr.pipeline.divided import plan_divided
from vidsr.pipeline.division import Division
from vidsr.pipeline.job import folder_of
from vidsr.pipeline.plan import plan_frames
from vidsr.pipeline.ray_cluster import Carried, Cluster, Delivery, Facts, Node, Survey, ask, do
from vidsr.pipeline.run import enhance
from vidsr.pipeline.segment_task import SegmentTask
from vidsr.pipeline.workers import FileTask, Seat
from vidsr.types import DegradationLevels
from vidsr.video.reader import Reader
from vidsr.video.segments import SegmentWriter

pytestmark = pytest.mark.leaves_hidden_files

ROOT = Path(__file__).parents[2]
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[ray]'")
FAST = UpscaleConfig(
    size=SizeConfig(scale=1.0), compute=ComputeConfig(model="bicubic", device="cpu", threads=1),
    output=OutputConfig(codec="ffv1"), scenes=SceneConfig(mode="off"), segment_frames=8,
)  # fmt: skip
COMMAND = (
    "--model", "bicubic", "--scale", "1", "--codec", "ffv1", "--scenes", "off", "--segment-frames", "8", "--threads",
    "1", "--progress", "json",
)  # fmt: skip


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[tuple[str, IO[str], IO[str]]]:
    """A cluster in a process of its own: its address, and its input and output."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.support.two_nodes"], cwd=ROOT, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert program.stdin is not None and program.stdout is not None
    with program:
        yield program.stdout.readline().strip(), program.stdin, program.stdout
        program.stdin.close()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def vidsr(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vidsr", *map(str, arguments)], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@with_ray
@pytest.mark.slow
def test_a_folder_with_broken_files_and_a_machine_that_is_lost(
    tmp_path: Path, two_nodes: tuple[str, IO[str], IO[str]]
) -> None:
    address, orders, answers = two_nodes
    folder = tmp_path / "in"
    folder.mkdir()
    first = media.clip(folder / "00.mkv", 5)
    for number in range(1, 12):
        shutil.copy(first, folder / f"{number:02}.mkv")
    for number in (3, 7):
        (folder / f"{number:02}.mkv").write_bytes(b"no video")
    said = json.loads("[]")
    with vidsr("upscale", folder, tmp_path / "out", *COMMAND, "--cluster", address) as program:
        _, text = program.communicate()
    said = [json.loads(line) for line in text.splitlines()]
    assert program.returncode == 3, text
    over = {Path(each["input"]).name: each["status"] for each in said if each["event"] == "file"}
    assert len(over) == 12 and [name for name, status in sorted(over.items()) if status == "failed"] == [
        "03.mkv", "07.mkv",
    ]  # fmt: skip
    assert {each["exit_code"] for each in said if each.get("status") == "failed"} == {3}
    enhance(first, tmp_path / "one.mkv", FAST)
    one = media.ffmpeg_framemd5(tmp_path / "one.mkv")
    made = sorted((tmp_path / "out").iterdir())
    assert len(made) == 10 and all(media.ffmpeg_framemd5(path).frames == one.frames for path in made)

    source, target = media.clip(tmp_path / "long.mkv", 120), tmp_path / "film.mkv"
    journal = folder_of(target) / "journal"
    with vidsr("upscale", source, target, *COMMAND, "--cluster", address) as program:
        assert program.stderr is not None
        for _ in program.stderr:
            if journal.exists() and b'"result"' in journal.read_bytes():
                orders.write("kill\n")
                orders.flush()
                assert answers.readline().strip() == "killed"
                break
        rest = program.stderr.read()
    assert program.returncode == 0, rest
    enhance(source, tmp_path / "whole.mkv", FAST)
    one, several = (media.ffmpeg_framemd5(tmp_path / name) for name in ("whole.mkv", "film.mkv"))
    assert one.frames == several.frames and one.times == several.times
    assert not folder_of(target).exists()


FACTS = Facts((("vidsr", "1.0"), ("torch", "2.13")), "x86_64 AVX2", "cpu", "fp32", "abc")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(FACTS, versions=(("vidsr", "1.1"), ("torch", "2.13"))), "has vidsr 1.1, not 1.0"),
        (replace(FACTS, processor="x86_64 AVX512"), "the processor x86_64 AVX512, not x86_64 AVX2"),
        (replace(FACTS, precision="bf16"), "the precision bf16, not fp32"),
        (replace(FACTS, model_sha256="abd"), "other weights of the model"),
    ],
)
def test_machines_that_would_compute_otherwise_are_refused(other: Facts, words: str) -> None:
    answers = iter([Node("one", FACTS, None, True), Node("two", other, None, True)])
    errors = SimpleNamespace(RayError=ConnectionError)
    ray = SimpleNamespace(get=lambda reference, timeout: Delivery("done", next(answers)), exceptions=errors)
    cluster = Cluster("auto", _ray=ray)
    with pytest.raises(DeviceError, match=f"the machine two of the Ray cluster has .*{words}|{words}"):
        cluster._answers([("one", 1), ("two", 2)])
    assert FACTS.difference(FACTS) is None


def test_all_machines_take_the_model_that_was_chosen_by_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan that travels names it: a machine that has only the header cannot choose."""
    levels = DegradationLevels(0.1, 0.0, 0.9)
    monkeypatch.setattr(degradation, "estimate_degradation", lambda *_: levels)
    options = replace(FAST, compute=ComputeConfig(device="cpu"), faces=RestoreConfig(use=False))
    source, target = media.clip(tmp_path / "a.mkv", 3), tmp_path / "b.mkv"
    plan = Cluster("auto", threads=1).plan(source, target, options)
    assert plan.model == plan.options.compute.model == "secnet-fast-real"
    assert plan_frames(plan.info, plan.options).engine.sha256 == plan.engine.sha256


def test_the_answer_of_a_machine(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mkv", 3)
    with Reader(source, FAST.input, torch.device("cpu")) as reader:
        info = reader.info
    digest = ray_cluster.sample_digest(source)
    question = Survey(info, FAST, source, digest, source)
    answer = ask(question, Seat(None, 1))
    assert answer.what == "done" and answer.value.sees and answer.value.facts.precision == "fp32"
    for unseen in (replace(question, digest="other"), replace(question, source=tmp_path / "b.mkv")):
        assert not ask(unseen, Seat(None, 1)).value.sees
    options = replace(FAST, compute=ComputeConfig(model="none"))
    failed = ask(replace(question, options=options), Seat(None, 1))
    assert failed.what == "failed" and failed.value.exit_code == 5


def test_files_travel_where_a_path_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = media.clip(tmp_path / "a.mkv", 20)
    data = source.read_bytes()
    carried = Carried(source.name, (data[:1000], data[1000:]))
    monkeypatch.setattr(ray_cluster, "load_ray", lambda: SimpleNamespace(get=lambda part: part))
    enhance(source, tmp_path / "one.mkv", FAST)
    one = media.ffmpeg_framemd5(tmp_path / "one.mkv")
    hidden = tmp_path / "hidden"
    source.rename(hidden)  # the machine does not see it

    task = FileTask(source, tmp_path / "film.mkv", FAST)
    delivery = do(task, Seat(None, 1), carried)
    ray_cluster._receive(task, delivery)
    assert media.ffmpeg_framemd5(tmp_path / "film.mkv").frames == one.frames
    assert delivery.value.output == str(tmp_path / "film.mkv")
    failed = do(task, Seat(None, 1), Carried(source.name, (b"no video",)))
    assert failed.what == "failed" and isinstance(failed.value, InputError) and failed.content is None

    hidden.rename(source)
    plan = plan_divided(source, tmp_path / "parts.mkv", FAST, ["cpu"], "--cluster")
    with (
        Reader(source, FAST.input, torch.device("cpu")) as reader,
        SegmentWriter(plan.written_video, tmp_path) as writer,
    ):
        ranges = list(Division(reader, FAST.scenes, False, 8).ranges())
        placing = writer.begin(reader.info.time_base * ranges[0].times[0])
    source.rename(hidden)
    folder = tmp_path / "job"
    folder.mkdir()
    for each in ranges:
        segment = SegmentTask(plan, each, folder, replace(placing))
        delivery = do(segment, Seat(None, 1), carried)
        assert delivery.what == "done", delivery.value
        ray_cluster._receive(segment, delivery)
        assert delivery.value.segment.is_intact(folder)
    assert len(ranges) > 1 and not list(folder.glob("*.part"))


def test_without_ray_the_option_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = media.clip(tmp_path / "a.mkv", 3)
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(app, ["upscale", str(source), str(tmp_path / "b.mkv"), "--cluster", "auto"])
    assert result.exit_code == 2 and "pip install 'vidsr-video[ray]'" in result.stderr
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    for other in (["--devices", "cpu"], ["--jobs", "2"]):
        result = CliRunner().invoke(app, ["upscale", str(source), str(tmp_path / "b.mkv"), "--cluster", "auto", *other])
        assert result.exit_code == 2 and "exclude each other" in result.stderr
