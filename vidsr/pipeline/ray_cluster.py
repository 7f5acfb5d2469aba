"""Has tasks done by the machines of a Ray cluster: Ray Core tasks, to which paths travel, never frames.

Ray retries a task whose machine or process is lost. An error of vidsr is the value of a task, so that it is not retried
and keeps its class. Where a machine does not see the folders of the one that started the job, input and output files
travel through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from vidsr import __version__
from vidsr.config import RunConfig
from vidsr.errors import DeviceError, InputError, UsageError
from vidsr.files import sample_digest
from vidsr.pipeline import plan as planning
from vidsr.pipeline.batch import Jobs
from vidsr.pipeline.divided import OnProgress, OnStart, check_divisible, run_divided
from vidsr.pipeline.job import processor_name
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.segment_task import SegmentResult, SegmentTask
from vidsr.pipeline.workers import Crew, FileTask, Message, Seat, Task, perform
from vidsr.runtime.memory import share_memory
from vidsr.runtime.threads import use_threads
from vidsr.signals import NAMES
from vidsr.types import RunReport, VideoInfo
from vidsr.video.codecs import library_versions
from vidsr.video.probe import Source

RETRIES = 3  # of a task whose machine or process was lost
CHUNK_BYTES = 64 << 20  # of a file that travels through the object store
GRACE_SECONDS = 20.0  # how long tasks may take to clean up when they are canceled
SURVEY_SECONDS = 300.0  # how long a machine may take to answer; the first time it loads torch
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine of the cluster would work with: all of it has to be equal on all machines.

    `versions` are those of vidsr and of the libraries that make frames; `processor` is the kind of processor or card.
    """

    versions: tuple[tuple[str, str], ...]
    processor: str
    device: str
    precision: str
    model_sha256: str | None

    def difference(self, other: Facts) -> str | None:
        """The first difference in words; None if there is none."""
        for (name, one), (_, two) in zip(self.versions, other.versions, strict=True):
            if one != two:
                return f"{name} {one}, not {two}"
        for name in ("processor", "device", "precision"):
            if (one := getattr(self, name)) != (two := getattr(other, name)):
                return f"the {name} {one}, not {two}"
        return None if self.model_sha256 == other.model_sha256 else "other weights of the model"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster: its name, what it works with, and whether it sees the files of the job.

    `tile` is the one that its memory allows for a task, None for whole frames.
    """

    name: str
    facts: Facts
    tile: int | None
    sees: bool


@dataclass(frozen=True, slots=True)
class Carried:
    """A file in the object store: its name and its parts."""

    name: str
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of a task, and the file that it has made if that has to travel."""

    what: str
    value: Any
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """The question to a machine what it would work with. `digest` is that of the input, `marker` lies by the output."""

    info: VideoInfo
    options: RunConfig
    source: Path
    digest: str
    marker: Path

    def perform(self, seat: Seat, tell: Callable[..., None]) -> Node:  # noqa: ARG002 - the signature of a task
        """The answer. Raises the errors of `plan_frames`."""
        share_memory(seat.share)
        engine = planning.plan_frames(self.info, self.options).engine
        versions = {"vidsr": __version__, "torch": torch.__version__, **library_versions()}
        facts = Facts(
            tuple(versions.items()), processor_name(engine.device), engine.device.partition(":")[0], engine.precision,
            engine.sha256,
        )  # fmt: skip
        sees = self.marker.exists()
        try:
            sees = sees and sample_digest(self.source) == self.digest
        except OSError:
            sees = False
        return Node(socket.gethostname(), facts, engine.tile, sees)


def ask(question: Survey, seat: Seat) -> Delivery:
    """Runs on a machine of the cluster: a Node, or the error of vidsr that it would end with."""
    return Delivery(*perform(question, seat, lambda *_: None))


def do(task: Task, seat: Seat, carried: Carried | None) -> Delivery:
    """Runs on a machine of the cluster: does a task, with files that travel if there are any."""
    share_memory(seat.share)
    if isinstance(task, SegmentTask):
        task = _settled(task, seat)
    if carried is None:
        return Delivery(*perform(task, seat, lambda *_: None))
    folder = Path(tempfile.mkdtemp(prefix="vidsr-"))
    try:
        source = folder / carried.name
        _fetch(carried, source)
        if isinstance(task, SegmentTask):
            assert task.plan.source is not None, "planned for a file"
            here = replace(task.plan.source, path=source)
            plan = replace(task.plan, source=here, output=replace(task.plan.written_video, source=here))
            task = replace(task, plan=plan, folder=folder)
        else:
            assert isinstance(task, FileTask), "there are two kinds of tasks"
            task = replace(task, source=source, target=folder / f"made{task.target.suffix}")
        what, value = perform(task, seat, lambda *_: None)
        if what != "done":
            return Delivery(what, value)
        made = folder / value.segment.name if isinstance(value, SegmentResult) else Path(value.output)
        return Delivery(what, value, made.read_bytes())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settled(task: SegmentTask, seat: Seat) -> SegmentTask:
    """The task with the networks as they lie on this machine, which are those of the plan."""
    if seat.threads:
        use_threads(seat.threads)
    options = task.plan.options
    here = planning.plan_frames(task.plan.info, options)
    faces = planning.plan_face_restoration(options, here.engine, task.plan.info)
    engine = replace(here.engine, tile=task.plan.tile)
    return replace(task, plan=replace(task.plan, engine=engine, cleaner=here.cleaner, faces=faces))


def _fetch(carried: Carried, target: Path) -> None:
    ray = load_ray()
    with target.open("wb") as file:
        for part in carried.parts:
            file.write(ray.get(part))


def load_ray() -> Any:
    """The module, without usage statistics. Raises UsageError if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--cluster needs Ray, which is not installed: give `pip install 'vidsr-video[ray]'` on all machines"
        ) from error
    return ray


@dataclass(slots=True)
class Cluster:
    """The machines of a Ray cluster, to which this process is connected while it is entered as a context manager.

    `threads` are those of each task (0: all of the smallest machine, divided among its cards). `device` is that of the
    options: "cpu", "cuda" or "auto", for a card per task if there is any.
    """

    address: str
    threads: int = 0
    device: str = "auto"
    gpus: float = 0.0
    say: Callable[[str], None] = lambda _: None
    _ray: Any = None
    _is_ours: bool = False

    option: ClassVar[str] = "--cluster"

    def __enter__(self) -> Self:
        """Raises UsageError without Ray, DeviceError if no cluster answers or it has nothing to work with."""
        self._ray = ray = load_ray()
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            handlers = {each: signal.getsignal(each) for each in _numbers()}
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=True, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise DeviceError(
                    f"no Ray cluster answers at {self.address} ({' '.join(str(error).split())[:200]}): start one with "
                    "`ray start --head`, or give its address"
                ) from error
            for number, handler in handlers.items():  # Ray ends the process on SIGTERM, without cleaning up
                if handler is not None:
                    signal.signal(number, handler)
        try:
            self._choose()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _choose(self) -> None:
        """Chooses the threads and the part of a card of each task."""
        nodes = [node["Resources"] for node in self._alive()]
        has_cards = any(node.get("GPU", 0) >= 1 for node in nodes)
        if self.device.startswith("cuda") and not has_cards:
            raise DeviceError("the Ray cluster has no graphics card: leave out --device cuda")
        if self.device != "cpu" and has_cards:
            self.gpus = self.gpus or 1.0
            nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
        sizes = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        if not sizes:
            raise DeviceError("the Ray cluster has no processor to work with: start nodes with --num-cpus 1 or more")
        if not self.threads:
            cards = max(1, *(int(node.get("GPU", 0)) for node in nodes)) if self.gpus else 1
            self.threads = max(1, min(sizes) // cards)
        if max(sizes) < self.threads:
            raise DeviceError(
                f"no machine of the Ray cluster has {self.threads} processors (the largest has {max(sizes)}): "
                "give a smaller --threads"
            )

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    @property
    def count(self) -> int:
        """How many tasks the cluster can do at once."""
        return max(1, sum(map(self._fits, self._alive())))

    def remote(self, function: Callable[..., Any], retries: int, place: Any) -> Any:
        """A function as a Ray task with the resources of a task; `place` is Ray's scheduling strategy."""
        return self._ray.remote(function).options(
            num_cpus=self.threads, num_gpus=self.gpus, max_retries=retries, retry_exceptions=False,
            scheduling_strategy=place,
        )  # fmt: skip

    def seat(self) -> Seat:
        """What each task works with."""
        at_once = [self._fits(node) for node in self._alive()]
        return Seat(None, self.threads, max([1, *at_once]))

    def _fits(self, node: dict[str, Any]) -> int:
        """How many tasks a machine can do at once."""
        found = int(node["Resources"].get("CPU", 0)) // self.threads
        return min(found, int(node["Resources"].get("GPU", 0) / self.gpus)) if self.gpus else found

    def inspect(self, info: VideoInfo, options: RunConfig, source: Path, folder: Path) -> list[Node]:
        """Asks every machine that can do a task what it works with; `folder` is that of the output.

        Raises DeviceError if they differ in what would change results, or one does not answer.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = []
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".vidsr-") as marker:
            question = Survey(info, options, source, sample_digest(source), Path(marker.name))
            for node in self._alive():
                if self._fits(node):
                    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                    task = self.remote(ask, 0, place)
                    asked.append((node["NodeManagerHostname"], task.remote(question, self.seat())))
            return self._answers(asked)

    def _answers(self, asked: list[tuple[str, Any]]) -> list[Node]:
        ray, nodes = self._ray, list[Node]()
        for name, reference in asked:
            try:
                answer: Delivery = ray.get(reference, timeout=SURVEY_SECONDS)
            except ray.exceptions.RayError as error:
                raise DeviceError(
                    f"the machine {name} of the Ray cluster cannot do the work ({_first_line(error)}): install vidsr "
                    f"{__version__} there, or take it out of the cluster"
                ) from error
            if answer.what != "done":
                raise answer.value
            nodes.append(answer.value)
        for node in nodes[1:]:
            if (difference := node.facts.difference(nodes[0].facts)) is not None:
                raise DeviceError(
                    f"the machine {node.name} of the Ray cluster has {difference} as {nodes[0].name}, so that results "
                    "would differ: make them equal, or take one out of the cluster"
                )
        return nodes

    def carry(self, path: Path) -> Carried:
        """Puts a file into the object store."""
        parts = []
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                parts.append(self._ray.put(chunk))
        return Carried(path.name, tuple(parts))

    def crew(self, jobs: Jobs, options: RunConfig) -> Crew:
        """The machines as a crew for whole videos. Raises DeviceError if they differ in what would change results."""
        carries = False
        for source, target in jobs.pairs:
            with suppress(InputError):  # one that cannot be read fails when its turn comes
                folder = next(path for path in target.absolute().parents if path.is_dir())
                info = Source.of(source).probe()
                nodes = self.inspect(info, self.options(options), source.absolute(), folder)
                carries = not self._all_see(nodes)
                self.say(f"{len(nodes)} machines, {self.count} videos at once, each with {self.threads} threads")
                break
        return RayCrew(self, None, carries)

    def _all_see(self, nodes: list[Node]) -> bool:
        found = all(node.sees for node in nodes)
        if not found:
            self.say("not all machines see the files of this job: they travel through Ray's object store")
        return found

    def plan(self, source: Path, target: Path, options: RunConfig) -> Plan:
        """The plan of a video that is divided among them: all but the networks is decided here.

        Raises UsageError if it cannot be divided, and the errors of `plan`.
        """
        here = replace(options, compute=replace(options.compute, device="cpu"))
        plan = planning.plan(source, target, here)
        check_divisible(plan, self.option)
        return replace(plan, options=self.options(plan.options))

    def options(self, options: RunConfig) -> RunConfig:
        """The options for whoever does a task: a card if tasks have one, and their threads."""
        device = "cuda" if self.gpus else "cpu"
        return replace(options, compute=replace(options.compute, device=device, threads=self.threads))

    def make(self, plan: Plan, on_progress: OnProgress, on_start: OnStart) -> RunReport:
        """Makes a planned video. Raises the errors of `run_divided`, and DeviceError if machines differ."""
        assert plan.source is not None, "planned for a file"
        source, folder = plan.source.path.absolute(), plan.written.target.absolute().parent
        nodes = self.inspect(plan.info, plan.options, source, folder)
        facts, tiles = nodes[0].facts, [node.tile for node in nodes if node.tile is not None]
        engine = replace(
            plan.engine, device=facts.device, precision=facts.precision, tile=min(tiles) if tiles else None
        )
        plan = replace(plan, engine=engine, source=replace(plan.source, path=source))
        carried = None if self._all_see(nodes) else self.carry(source)
        self.say(f"{len(nodes)} machines, {self.count} segments at once, each with {self.threads} threads")
        crew = RayCrew(self, carried, False)
        return run_divided(plan, crew, self.threads, on_progress, on_start, facts.processor)


def _numbers() -> list[int]:
    """The signals that end a run, where the system has them."""
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).strip()[:200]


@dataclass(slots=True)
class RayCrew:
    """The machines of a cluster as a crew; see `Crew`. At most a few more tasks are in flight than are being done."""

    cluster: Cluster
    carried: Carried | None
    carries: bool
    _running: dict[Any, tuple[Any, Task]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels what is not done, so that it cleans up; what does not react is ended."""
        ray = self.cluster._ray
        left = list(self._running)
        self._running.clear()
        for is_forced in (False, True):
            for reference in left:
                with suppress(Exception):
                    ray.cancel(reference, force=is_forced)
            _, left = ray.wait(left, num_returns=len(left), timeout=GRACE_SECONDS) if left else ([], [])

    @property
    def is_busy(self) -> bool:
        """Whether any task has been assigned and is not over."""
        return bool(self._running)

    @property
    def has_room(self) -> bool:
        """Whether another task can be assigned: one in four waits, so that no machine does."""
        count = self.cluster.count
        return len(self._running) < count + max(1, count // 4)

    def assign(self, key: Any, task: Task) -> None:
        """Hands a task to the cluster."""
        carried = self.carried
        if isinstance(task, FileTask):
            task = replace(task, source=task.source.absolute(), target=task.target.absolute())
            carried = self.cluster.carry(task.source) if self.carries else None
        else:
            assert isinstance(task, SegmentTask), "there are two kinds of tasks"
            task = replace(task, folder=task.folder.absolute())
        work = self.cluster.remote(do, RETRIES, "SPREAD")
        reference = work.remote(task, self.cluster.seat(), carried)
        self._running[reference] = key, task

    def poll(self, timeout: float | None = None) -> list[Message]:
        """Waits until a task is over, at most so many seconds."""
        ray = self.cluster._ray
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS if timeout is None else timeout)
        messages = []
        for reference in ready:
            key, task = self._running.pop(reference)
            try:
                delivery: Delivery = ray.get(reference)
            except ray.exceptions.RayError as error:
                messages.append(Message(key, "died", _first_line(error)))
                continue
            if delivery.what == "done" and delivery.content is not None:
                _receive(task, delivery)
            messages.append(Message(key, delivery.what, delivery.value))
        return messages


def _receive(task: Task, delivery: Delivery) -> None:
    """Writes a file that has traveled to where it belongs."""
    from vidsr.files import atomic_write

    assert delivery.content is not None
    if isinstance(task, SegmentTask):
        (task.folder / delivery.value.segment.name).write_bytes(delivery.content)
        return
    assert isinstance(task, FileTask)
    with atomic_write(task.target, overwrite=task.options.output.overwrite) as hidden:
        hidden.write_bytes(delivery.content)
    delivery.value.input, delivery.value.output = str(task.source), str(task.target)
