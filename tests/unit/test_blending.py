"""Blending of restored faces: the mask pixel by pixel, the color offset, and invisible borders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidsr.faces.blending import FULL, POWER, RAMP, REACH, FaceBlender, color_offset, soft_mask
from vidsr.faces.restorer import choose_crop
from vidsr.nets.layers.resize import resize
from vidsr.stages.base import through
from vidsr.types import Crop, Face, Frame, RestoredFace

CPU = torch.device("cpu")
WIDTH, HEIGHT, SCALE = 64, 48, 4
Box = tuple[float, float, float, float]
BOX: Box = (21.5, 14.25, 18.0, 16.5)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return 0.2 + 0.6 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def frame_with(patches: list[RestoredFace], picture: Tensor | None = None) -> Frame:
    picture = noise(SCALE * HEIGHT, SCALE * WIDTH) if picture is None else picture
    faces = tuple(
        Face(patch.box, ((0.0, 0.0),) * 5, 0.9, track, restored=patch) for track, patch in enumerate(patches, start=1)
    )
    return Frame(picture, 7, Fraction(1, 25), 1, True, faces)


def blended(picture: Tensor, patches: list[RestoredFace], strength: float = 1.0) -> Tensor:
    (result,) = through(FaceBlender(strength), [frame_with(patches, picture)])
    return result.image


def shown(crop: Crop, picture: Tensor, scale: int = SCALE) -> Tensor:
    """The part of an enlarged frame inside the crop."""
    rows = slice(scale * crop.top, scale * (crop.top + crop.height))
    return picture[:, rows, scale * crop.left : scale * (crop.left + crop.width)]


def new_patch(box: Box = BOX, weight: float = 1.0, seed: int = 1, crop: Crop | None = None) -> RestoredFace:
    crop = crop or choose_crop(box, WIDTH, HEIGHT, None)
    return RestoredFace(noise(SCALE * crop.height, SCALE * crop.width, seed), crop, box, weight)


# ------------------------------------------------------------------------------------------------------------- the mask


def brute_mask(box: Box, crop: Crop, width: int, height: int, scale: int) -> Tensor:
    mask = torch.zeros(scale * crop.height, scale * crop.width)
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            x, y = crop.left + (column + 0.5) / scale, crop.top + (row + 0.5) / scale
            across = abs(x - box[0] - box[2] / 2) / (box[2] / 2)
            down = abs(y - box[1] - box[3] / 2) / (box[3] / 2)
            radius = (across**POWER + down**POWER) ** (1 / POWER)
            share = min(1.0, max(0.0, (REACH - radius) / (REACH - FULL)))
            weight = share**2 * (3 - 2 * share)
            ramps = [1.0, 1.0]
            for axis, (place, start, length, limit) in enumerate(
                [(x, crop.left, crop.width, width), (y, crop.top, crop.height, height)]
            ):
                if start > 0:
                    ramps[axis] = min(ramps[axis], (place - start) / RAMP)
                if start + length < limit:
                    ramps[axis] = min(ramps[axis], (start + length - place) / RAMP)
            mask[row, column] = weight * ramps[0] * ramps[1]
    return mask


@pytest.mark.parametrize(
    ("box", "crop", "width", "height", "scale"),
    [
        ((6.5, 5.25, 9.0, 7.5), Crop(0, 0, 24, 16), 40, 30, 2),
        ((6.5, 5.25, 9.0, 7.5), Crop(8, 8, 8, 8), 40, 30, 4),  # the face extends beyond its crop
        ((-3.0, 9.0, 8.0, 9.0), Crop(0, 0, 8, 21), 40, 21, 3),  # and beyond its frame
        ((30.0, 20.0, 9.0, 9.0), Crop(24, 16, 9, 13), 33, 29, 2),
        ((5.0, 5.0, 4.0, 4.0), Crop(0, 0, 12, 12), 12, 12, 1),
    ],
)
def test_mask_matches_a_pixel_by_pixel_computation(box: Box, crop: Crop, width: int, height: int, scale: int) -> None:
    mask = soft_mask(box, crop, width, height, scale, CPU)
    wanted = brute_mask(box, crop, width, height, scale)
    assert wanted.max() > 0.3
    torch.testing.assert_close(mask, wanted, atol=1e-5, rtol=0)


PLACES = st.tuples(st.floats(-20, 80), st.floats(-20, 60), st.floats(4, 50), st.floats(4, 50))


@settings(deadline=None)
@given(box=PLACES)
def test_mask_of_a_crop_chosen_for_its_face(box: Box) -> None:
    """1 on the whole face, 0 beyond the reach of the border and at crop edges inside the frame."""
    crop = choose_crop(box, WIDTH, HEIGHT, None)
    mask = soft_mask(box, crop, WIDTH, HEIGHT, SCALE, CPU)
    assert mask.shape == (SCALE * crop.height, SCALE * crop.width) and mask.min() >= 0 and mask.max() <= 1
    x = (torch.arange(SCALE * crop.width) + 0.5) / SCALE + crop.left
    y = (torch.arange(SCALE * crop.height) + 0.5) / SCALE + crop.top
    across, down = (x - box[0] - box[2] / 2).abs() / (box[2] / 2), (y - box[1] - box[3] / 2).abs() / (box[3] / 2)
    assert (mask[:, across >= REACH] == 0).all() and (mask[down >= REACH] == 0).all()
    ellipse = (across[None] ** 2 + down[:, None] ** 2).sqrt()
    assert (mask[ellipse <= 1] == 1).all()
    edges = [(crop.top > 0, mask[0]), (crop.top + crop.height < HEIGHT, mask[-1]),
             (crop.left > 0, mask[:, 0]), (crop.left + crop.width < WIDTH, mask[:, -1])]  # fmt: skip
    for is_inside, edge in edges:
        assert not is_inside or (edge == 0).all()


def test_mask_is_full_at_an_edge_of_the_frame() -> None:
    box = (-4.0, -4.0, 24.0, 24.0)
    mask = soft_mask(box, choose_crop(box, WIDTH, HEIGHT, None), WIDTH, HEIGHT, SCALE, CPU)
    assert (mask[: SCALE * 16, : SCALE * 16] == 1).all()


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_mask_falls_to_zero_at_a_crop_edge_through_the_face(edge: str) -> None:
    crop, box = Crop(16, 8, 32, 32), (16.0, 8.0, 32.0, 32.0)
    mask = soft_mask(box, crop, WIDTH, HEIGHT, SCALE, CPU)
    line = {"left": mask[64], "right": mask[64].flip(0), "top": mask[:, 64], "bottom": mask[:, 64].flip(0)}[edge]
    steps = int(SCALE * RAMP)
    torch.testing.assert_close(line[:steps], (torch.arange(steps) + 0.5) / steps)
    assert (line[steps:64] == 1).all()


# ----------------------------------------------------------------------------------------------------------- the color


@settings(deadline=None, max_examples=40)
@given(box=PLACES, weight=st.floats(0, 1), strength=st.floats(0, 1))
def test_patch_equal_to_the_image_changes_nothing(box: Box, weight: float, strength: float) -> None:
    picture, crop = noise(SCALE * HEIGHT, SCALE * WIDTH), choose_crop(box, WIDTH, HEIGHT, None)
    same = RestoredFace(shown(crop, picture).clone(), crop, box, weight)
    torch.testing.assert_close(blended(picture, [same], strength), picture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("offset", [(0.1, -0.15, 0.05), (-0.1, -0.1, -0.1)])
def test_color_offset_of_a_patch_is_removed(offset: tuple[float, float, float]) -> None:
    picture, crop = noise(SCALE * HEIGHT, SCALE * WIDTH), choose_crop(BOX, WIDTH, HEIGHT, None)
    tinted = shown(crop, picture) + torch.tensor(offset)[:, None, None]
    torch.testing.assert_close(blended(picture, [RestoredFace(tinted, crop, BOX, 1.0)]), picture, atol=1e-5, rtol=0)


def test_color_offset_depends_only_on_the_border() -> None:
    """Independent of the inside and the outside."""
    crop = choose_crop(BOX, WIDTH, HEIGHT, None)
    mask = soft_mask(BOX, crop, WIDTH, HEIGHT, SCALE, CPU)
    under, over = torch.full((3, *mask.shape), 0.5), torch.full((3, *mask.shape), 0.2)
    over[:, mask == 1], over[:, mask == 0] = 0.9, 0.0
    gap = color_offset(under, over, mask)
    torch.testing.assert_close(gap, torch.full((3, 1, 1), 0.3))
    weights = (mask * (1 - mask)).double()
    under, over = noise(*mask.shape, seed=2), noise(*mask.shape, seed=3)
    wanted = ((under - over).double() * weights).sum((1, 2)) / weights.sum()
    torch.testing.assert_close(color_offset(under, over, mask).double()[:, 0, 0], wanted, atol=1e-6, rtol=0)


def test_no_color_offset_without_a_border() -> None:
    under, over = noise(8, 8, 2), noise(8, 8, 3)
    for mask in (torch.zeros(8, 8), torch.ones(8, 8)):
        assert torch.equal(color_offset(under, over, mask), torch.zeros(3, 1, 1))


def test_result_stays_in_range() -> None:
    picture, crop = torch.full((3, SCALE * HEIGHT, SCALE * WIDTH), 0.98), choose_crop(BOX, WIDTH, HEIGHT, None)
    patch = RestoredFace(torch.randint(0, 2, (3, SCALE * crop.height, SCALE * crop.width)).float(), crop, BOX, 1.0)
    result = blended(picture, [patch])
    assert result.min() >= 0 and result.max() <= 1 and result.max() > 0.99 and result.min() < 0.6


# ------------------------------------------------------------------------------------------------------- how much of it


def test_strength_and_weight_scale_the_change() -> None:
    picture, patch = noise(SCALE * HEIGHT, SCALE * WIDTH), new_patch()
    change = blended(picture, [patch]) - picture
    assert change.abs().max() > 0.3
    for weight, strength in ((1.0, 0.25), (0.5, 1.0), (0.5, 0.6), (0.0, 1.0), (1.0, 0.0)):
        part = blended(picture, [replace(patch, weight=weight)], strength) - picture
        torch.testing.assert_close(part, weight * strength * change, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=40)
@given(box=PLACES)
def test_no_visible_edge_of_the_crop(box: Box) -> None:
    """Pixels outside the crop are unchanged, and inside along its edges too, except at edges of the frame."""
    picture, patch = noise(SCALE * HEIGHT, SCALE * WIDTH), new_patch(box)
    crop, change = patch.crop, blended(noise(SCALE * HEIGHT, SCALE * WIDTH), [patch]) - picture
    inside = shown(crop, change).clone()
    shown(crop, change).zero_()
    assert (change == 0).all()
    edges = [(crop.top > 0, inside[:, 0]), (crop.top + crop.height < HEIGHT, inside[:, -1]),
             (crop.left > 0, inside[..., 0]), (crop.left + crop.width < WIDTH, inside[..., -1])]  # fmt: skip
    for is_inside, edge in edges:
        assert not is_inside or (edge == 0).all()


def test_face_itself_is_the_color_corrected_patch() -> None:
    picture, patch = noise(SCALE * HEIGHT, SCALE * WIDTH), new_patch()
    mask = soft_mask(BOX, patch.crop, WIDTH, HEIGHT, SCALE, CPU)
    under = shown(patch.crop, picture)
    wanted = patch.image + color_offset(under, patch.image, mask)
    full = mask == 1
    assert full.sum() > SCALE**2 * 0.9 * BOX[2] * BOX[3]
    result = shown(patch.crop, blended(picture, [patch]))
    torch.testing.assert_close(result[:, full], wanted[:, full].clamp(0, 1), atol=1e-6, rtol=0)


def test_later_of_two_overlapping_patches_is_on_top() -> None:
    picture = noise(SCALE * HEIGHT, SCALE * WIDTH)
    first, second = new_patch((14.0, 14.0, 16.0, 16.0), 0.7, seed=1), new_patch((24.0, 16.0, 18.0, 16.0), seed=2)
    both = blended(picture, [first, second])
    assert torch.equal(both, blended(blended(picture, [first]), [second]))
    on_top = (slice(None), slice(4 * 20, 4 * 28), slice(4 * 26, 4 * 30))  # where the faces overlap
    alone = blended(picture, [second])[on_top] - both[on_top]
    assert alone.std() < 0.2 * (both - blended(picture, [first]))[on_top].std()


# ----------------------------------------------------------------------------------------------------------- the frames


def test_frames_without_patches_pass_unchanged() -> None:
    picture = noise(SCALE * HEIGHT, SCALE * WIDTH)
    bare = Frame(picture, 0, Fraction(1, 25))
    seen = replace(frame_with([new_patch()], picture), faces=(Face(BOX, ((0.0, 0.0),) * 5, 0.9, 1),))
    for frame, given_out in zip([bare, seen], through(FaceBlender(), [bare, seen]), strict=True):
        assert given_out is frame


def test_inputs_are_not_modified_and_patches_are_released() -> None:
    picture, patch = noise(SCALE * HEIGHT, SCALE * WIDTH), new_patch()
    given_in = frame_with([patch], picture)
    image = patch.image.clone()
    (result,) = through(FaceBlender(), [given_in])
    assert torch.equal(picture, noise(SCALE * HEIGHT, SCALE * WIDTH)) and torch.equal(patch.image, image)
    assert [face.restored for face in result.faces] == [None] and given_in.faces[0].restored is patch
    assert result == replace(given_in, image=result.image, faces=(replace(given_in.faces[0], restored=None),))


def test_each_frame_is_yielded_before_the_next_is_taken() -> None:
    taken = []

    def frames() -> Iterator[Frame]:
        for number in range(4):
            taken.append(number)
            yield replace(frame_with([new_patch()] if number % 2 else []), pts=number)

    for number, frame in enumerate(through(FaceBlender(), frames())):
        assert frame.pts == number and taken == list(range(number + 1))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_scale(scale: int) -> None:
    picture, crop = noise(scale * HEIGHT, scale * WIDTH), choose_crop(BOX, WIDTH, HEIGHT, None)
    patch = RestoredFace(noise(scale * crop.height, scale * crop.width, 1), crop, BOX, 1.0)
    change = (blended(picture, [patch]) - picture).abs().amax(0)
    rows, columns = (change > 0.02).nonzero(as_tuple=True)
    for places, start, side in ((columns, BOX[0], BOX[2]), (rows, BOX[1], BOX[3])):
        low, high = float(places.min()) / scale, float(places.max() + 1) / scale
        assert start - side / 4 - 0.1 <= low < start - 0.05 * side
        assert start + 1.05 * side < high <= start + side * 1.25 + 0.1


def test_a_face_of_another_scale_is_resampled() -> None:
    """Frames enlarged by 2: the same as a patch that was reduced beforehand."""
    patch, picture = new_patch(), noise(2 * HEIGHT, 2 * WIDTH)
    crop = patch.crop
    reduced = replace(patch, image=resize(patch.image, (2 * crop.height, 2 * crop.width)))
    (expected,) = through(FaceBlender(), [frame_with([reduced], picture)])
    (result,) = through(FaceBlender(1.0, 2), [frame_with([patch], picture)])
    assert torch.equal(result.image, expected.image) and not torch.equal(result.image, picture)
