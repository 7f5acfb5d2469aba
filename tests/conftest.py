"""Workers for the suite, guards around every test, and what a test for a GPU does without one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.guards import (  # noqa: F401 - fixtures for every test
    no_error_is_logged,
    no_file_is_left,
    no_thread_is_left,
    random_numbers_as_before,
    torch_as_before,
)
from tests.support.torch_threads import two_threads  # noqa: F401 - a fixture
from tests.support.workers import (  # noqa: F401 - hooks
    dealt,
    pytest_cmdline_main,
    pytest_xdist_auto_num_workers,
    pytest_xdist_setupnodes,
)

TESTS = Path(__file__).parent

# Some tests import ONNX Runtime themselves; its telemetry would write into the developer's home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A suite started in the background of a shell ignores SIGINT, and so would the programs whose interruption is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# What takes long, by the beginning of its name: whole networks, long films, several programs, trainings. What remains
# takes under 3 minutes on 2 cores.
SLOW = (
    "laws/test_engine_laws.py::test_law[",
    "laws/test_engine_laws.py::test_lasting_law",
    "laws/test_face_engine.py",
    "laws/test_onnx_engine.py",
    "laws/test_pretend_cuda.py",
    "laws/test_self_ensemble.py",
    "laws/test_slowmo_engine.py",
    "laws/test_streaming_algorithm4.py",
    "laws/test_tiled.py::test_several_failures_and_a_saved_state",
    "golden/test_cajnn.py::test_onnx_computes_the_same_at_any_size",
    "golden/test_hime.py::test_an_exported_graph",
    "golden/test_importers.py",
    "golden/test_models.py",
    "golden/test_secnet.py",
    "golden/test_zsm.py",
    "golden/test_mpenet.py::test_an_exported_graph",
    "train/test_detector_training.py",
    "train/test_mpenet_training.py::test_it_trains",
    "train/test_mpenet_training.py::test_the_loss_falls",
    "train/test_training_on_samples.py",
    "media/test_tiny_restoration.py",
    "train/test_slowmo_training.py",
    "train/test_training.py",
    "media/test_compare_browser.py",
    "media/test_docs_examples.py::test_the_examples_of_a_document",
    "media/test_borders.py",
    "media/test_box_restoration.py",
    "media/test_cajnn_command.py",
    "media/test_cleaning.py",
    "media/test_clock.py",
    "media/test_compare_preview.py",
    "media/test_devices.py",
    "media/test_parallel.py",
    "media/test_pipes.py::test_ctrl_c",
    "media/test_references.py",
    "media/test_restoration.py",
    "media/test_samples.py",
    "media/test_segments.py::test_joined_segments_decode_to_their_frames",
    "media/test_slowmo_run.py",
    "media/test_stretched_audio.py",
    "faults/test_faults.py",
    "faults/test_resume.py",
    "faults/test_files_written.py::test_a_",
    "faults/test_terminal.py::test_faults_of_stdout_and_stderr",
    "faults/test_terminal.py::test_interrupted_while_modules_are_loaded",
    "unit/test_bench.py",
    "unit/test_memory.py::test_a_buffer_used_again",
    "unit/test_memory.py::test_all_threads_of_a_command",
    "unit/test_onnx_export.py::test_the_graph_computes",
    "unit/test_onnx_export.py::test_zooming_slowmo_is_one_file",
    "unit/test_presentation.py::test_plot_is_a_complete_png",
    "unit/test_readme.py::test_the_sizes_of_a_model_are_true",
    "unit/test_workers.py::test_two_workers",
    "benchmarks/test_real_footage.py::test_rows_with_networks",
    "benchmarks/test_references_benchmark.py::test_photographs_change",
    "benchmarks/test_references_benchmark.py::test_the_sheet",
    "benchmarks/test_slowmo_benchmark.py::test_the_plain_forward_pass_is_the_network",
)

# What takes more than about 20 seconds with AVX2 only (54 and 28 for 5,000 frames), the longest first: each worker
# begins with its share of these. The last are long where others run, too: those in bf16.
LONGEST = (
    "laws/test_engine_laws.py::test_lasting_law[zsm",
    "laws/test_engine_laws.py::test_lasting_law[secnet",
    "laws/test_engine_laws.py::test_lasting_law",
)


def name_of(item: pytest.Item) -> str:
    """Its file below tests/, and its name there."""
    return f"{item.path.relative_to(TESTS).as_posix()}::{item.name}" if item.path.is_relative_to(TESTS) else item.name


def rank_of(item: pytest.Item) -> int | None:
    """The place of a test among the longest."""
    return next((place for place, start in enumerate(LONGEST) if name_of(item).startswith(start)), None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is slow; in a worker, puts the longest tests first."""
    for item in items:
        if name_of(item).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        items[:] = dealt(items, rank_of, config.workerinput["workercount"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a GPU its tests are skipped; with VIDSR_REQUIRE_GPU=1, as where one should be, they fail."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("VIDSR_REQUIRE_GPU") == "1":
        pytest.fail("VIDSR_REQUIRE_GPU=1 is set, but torch finds no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")
