"""Guards around every test, and what a test for a GPU does without one."""

from __future__ import annotations

import os

import pytest
import torch

from tests.support.guards import (  # noqa: F401 - fixtures for every test
    no_error_is_logged,
    no_file_is_left,
    no_thread_is_left,
    random_numbers_as_before,
    torch_as_before,
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a GPU its tests are skipped; with VIDSR_REQUIRE_GPU=1, as where one should be, they fail."""
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("VIDSR_REQUIRE_GPU") == "1":
        pytest.fail("VIDSR_REQUIRE_GPU=1 is set, but torch finds no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")
