"""Resampling against Pillow, OpenCV and a double loop in plain Python."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vidsr.nets.layers.resize import Kernel, _resize_bands, resize

pytestmark = pytest.mark.numeric

KERNELS: tuple[Kernel, ...] = ("bicubic", "lanczos3", "area")


def random_image(
    height: int, width: int, seed: int = 0, channels: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def kernel_value(kernel: str, x: float) -> float:
    x = abs(x)
    if kernel == "lanczos3":
        if x == 0:
            return 1.0
        return 3 * math.sin(math.pi * x) * math.sin(math.pi * x / 3) / (math.pi * x) ** 2 if x < 3 else 0.0
    a = -0.5
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def line_by_hand(line: list[float], new: int, kernel: str, antialias: bool) -> list[float]:
    """One row, each output from every position within a generous reach, mirrored step by step."""
    old = len(line)
    wide = max(1.0, old / new) if antialias else 1.0
    result = []
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        total = weights = 0.0
        for j in range(math.floor(center - 4 * wide), math.ceil(center + 4 * wide) + 1):
            weight = kernel_value(kernel, (center - j) / wide)
            k = j
            while not 0 <= k < old:
                k = -1 - k if k < 0 else 2 * old - 1 - k
            total += weight * line[k]
            weights += weight
        result.append(total / weights)
    return result


def by_hand(image: np.ndarray, size: tuple[int, int], kernel: str, antialias: bool) -> np.ndarray:
    rows = [line_by_hand(list(row), size[1], kernel, antialias) for row in image]
    columns = [line_by_hand(list(column), size[0], kernel, antialias) for column in np.array(rows).T]
    return np.array(columns).T


sides = st.integers(1, 24)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(["bicubic", "lanczos3"]), st.booleans())
def test_equals_a_double_loop_everywhere(h: int, w: int, new_h: int, new_w: int, kernel: Kernel, aa: bool) -> None:
    image = random_image(h, w)
    result = resize(image, (new_h, new_w), kernel, aa)
    expected = by_hand(image[0].numpy(), (new_h, new_w), kernel, aa)
    np.testing.assert_allclose(result[0].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(180, 320), (11, 20), (33, 100), (90, 37), (300, 12)])
@pytest.mark.parametrize(
    ("kernel", "filter_"), [("bicubic", Image.Resampling.BICUBIC), ("lanczos3", Image.Resampling.LANCZOS)]
)
def test_equals_pillow_inside(size: tuple[int, int], kernel: Kernel, filter_: Image.Resampling) -> None:
    image = random_image(45, 80, dtype=torch.float32)
    expected = np.asarray(Image.fromarray(image[0].numpy()).resize(size[::-1], filter_))
    result = resize(image, size, kernel)[0].numpy()
    # Pillow cuts the kernel off at the edges instead of mirroring: leave out what the widened kernel reaches.
    low = [math.ceil(3 * max(1, new / old, 1) + 1) for old, new in zip((45, 80), size, strict=True)]
    inner = tuple(slice(margin, -margin) for margin in low)
    assert result[inner].size > 0
    np.testing.assert_allclose(result[inner], expected[inner], rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(17, 31), (15, 20), (44, 79), (1, 1)])
def test_area_equals_opencv(size: tuple[int, int]) -> None:
    image = random_image(45, 80)
    expected = cv2.resize(image[0].numpy(), size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize(image, size, "area")[0].numpy(), expected, rtol=0, atol=1e-6)


def test_area_keeps_the_mean_and_repeats_when_enlarging() -> None:
    image = random_image(12, 10)
    assert torch.allclose(resize(image, (5, 7), "area").mean(), image.mean(), rtol=0, atol=1e-12)
    doubled = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(resize(image, (24, 20), "area"), doubled)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 200), st.integers(1, 200), st.sampled_from(KERNELS))
def test_keeps_a_constant(h: int, w: int, new_h: int, new_w: int, kernel: Kernel) -> None:
    result = resize(torch.full((2, h, w), 0.7), (new_h, new_w), kernel)
    assert result.shape == (2, new_h, new_w)
    assert (result - 0.7).abs().max() < 1e-6


enlargements = st.tuples(st.integers(16, 90), st.integers(90, 300))
whole_reductions = st.builds(lambda new, factor: (new * factor, new), st.integers(8, 30), st.integers(2, 5))


@settings(max_examples=40, deadline=None)
@given(enlargements | whole_reductions)
def test_bicubic_keeps_a_ramp_inside(lengths: tuple[int, int]) -> None:
    # Keys' cubic reproduces straight lines where it is not widened, and by symmetry where the reduction is whole.
    old, new = lengths
    result = resize(torch.arange(old, dtype=torch.float64).expand(1, 3, old), (3, new))[0, 1]
    expected = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    margin = math.ceil(3 * max(1.0, new / old))
    assert (result - expected)[margin:-margin].abs().max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(KERNELS))
def test_commutes_with_mirroring_and_transposition(h: int, w: int, new_h: int, new_w: int, kernel: Kernel) -> None:
    image = random_image(h, w)
    result = resize(image, (new_h, new_w), kernel)
    assert torch.allclose(resize(image.flip(-1, -2), (new_h, new_w), kernel), result.flip(-1, -2), rtol=0, atol=1e-12)
    assert torch.allclose(resize(image.mT, (new_w, new_h), kernel), result.mT, rtol=0, atol=1e-12)


def test_same_size_is_the_image_itself() -> None:
    image = random_image(31, 17)
    for kernel in KERNELS:
        assert resize(image, (31, 17), kernel) is image


def test_many_blocks_and_leading_axes() -> None:
    # Larger than a block of rows, so that joins between blocks are crossed; leading axes are independent.
    clip = random_image(70, 90, channels=6).reshape(2, 3, 70, 90)
    result = resize(clip, (280, 333))
    assert result.shape == (2, 3, 280, 333)
    single = resize(clip[1, 2], (280, 333))
    assert torch.allclose(result[1, 2], single, rtol=0, atol=1e-12)
    expected = line_by_hand(clip[1, 2, :, 45].tolist(), 280, "bicubic", True)
    np.testing.assert_allclose(resize(clip, (280, 90))[1, 2, :, 45].numpy(), expected, rtol=0, atol=1e-12)


def test_memory_of_the_weights_is_bounded() -> None:
    for old, new in [(960, 3840), (7680, 1280), (1919, 3841)]:
        bands = _resize_bands(old, new, "bicubic", True, torch.float32, torch.device("cpu"))
        held = sum(band.matrix.numel() for band in bands)
        assert held < 2**20  # the dense matrices have 3.7 to 9.8 million entries


def test_half_types_are_computed_in_float32() -> None:
    image = random_image(20, 30, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        small = image.to(dtype)
        assert torch.equal(resize(small, (41, 77)), resize(small.float(), (41, 77)).to(dtype))


def test_autocast_does_not_touch_it() -> None:
    image = random_image(20, 30, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = resize(image, (80, 120))
    assert torch.equal(inside, resize(image, (80, 120)))


def test_gradient_and_reuse_after_inference_mode() -> None:
    image = random_image(5, 6)
    with torch.inference_mode():
        resize(image, (13, 9))  # fills the cache of weights, which training must be able to use afterwards
    leaf = image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize(x, (13, 9)), (leaf,))


def test_input_is_left_alone() -> None:
    image = random_image(8, 8)
    before = image.clone()
    resize(image, (16, 4))
    assert torch.equal(image, before)


def test_what_it_refuses() -> None:
    with pytest.raises(TypeError, match="uint8"):
        resize(torch.zeros(3, 4, 4, dtype=torch.uint8), (8, 8))
    for size in [(0, 4), (4, -1)]:
        with pytest.raises(ValueError, match="at least one pixel"):
            resize(random_image(4, 4), size)
    with pytest.raises(ValueError, match="at least one pixel"):
        resize(torch.zeros(3, 0, 4), (4, 4))
    with pytest.raises(ValueError, match="antialiasing"):
        resize(random_image(4, 4), (2, 2), "area", antialias=False)
