"""Losses of the face detector; targets.py makes the targets.

Scores: focal loss with a soft target (Li et al., "Generalized Focal Loss", 2020, equation (2), beta 2): for "obj" 1 at
cells that own a face, for "cls" the IoU of the box predicted there, so that the geometric mean prefers the best box.
Boxes: EIoU (Zhang et al., 2021, equation (6)), as YuNet (Wu, Peng and Yu, 2023, section 3.4). Points: smooth L1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.facepyramid import POINTS, STRIDES
from vidsr.train.detector.recipe import DetectorLossConfig
from vidsr.train.detector.targets import NO_FACE, FaceBatch

# Where smooth L1 becomes linear, in sides of the face: 1 % is the accuracy of the labels.
_LINEAR_FROM = 0.01


class DetectorLosses(NamedTuple):
    """`total` is minimized; the others are its parts, per cell that owns a face."""

    total: Tensor
    obj: Tensor
    cls: Tensor
    box: Tensor
    points: Tensor


def detector_losses(raw: list[Tensor], batch: FaceBatch, config: DetectorLossConfig) -> DetectorLosses:
    """The losses of a batch; `raw` is the output of FacePyramid."""
    corners, strides, flat = [], [], []
    for level, step in zip(raw, STRIDES, strict=True):
        height, width = level.shape[2:]
        rows, columns = torch.meshgrid(
            torch.arange(height, device=level.device), torch.arange(width, device=level.device), indexing="ij"
        )
        corners.append(torch.stack([columns.flatten(), rows.flatten()], 1) * float(step))
        strides.append(torch.full((height * width,), float(step), device=level.device))
        flat.append(level.flatten(2).transpose(1, 2).float())
    values = torch.cat(flat, 1)
    is_counted, is_face = batch.owners >= NO_FACE, batch.owners > NO_FACE
    image, cell = is_face.nonzero(as_tuple=True)
    truth = batch.faces[image, batch.owners[image, cell]]
    corner, stride = torch.cat(corners)[cell], torch.cat(strides)[cell][:, None]
    found = values[image, cell]
    center = corner + found[:, 2:4] * stride
    size = found[:, 4:6].clamp(max=8).exp() * stride
    points = (corner[:, None] + found[:, 6:].reshape(-1, POINTS, 2) * stride[:, None]).flatten(1)
    box_loss, overlap = eiou_loss(torch.cat([center - size / 2, size], 1), truth[:, :4])
    side = truth[:, 2:4].prod(1, keepdim=True).sqrt()
    count = max(1, len(cell))
    points_loss = (
        F.smooth_l1_loss(points / side, truth[:, 4:] / side, beta=_LINEAR_FROM, reduction="sum") / (2 * POINTS) / count
    )
    cls_target, obj_target = torch.zeros_like(values[..., 0]), is_face.float()
    cls_target[image, cell] = overlap.detach()
    cls = soft_focal_loss(values[..., 0][is_counted], cls_target[is_counted]).sum() / count
    obj = soft_focal_loss(values[..., 1][is_counted], obj_target[is_counted]).sum() / count
    box = box_loss.sum() / count
    total = obj + cls + config.weight_box * box + config.weight_points * points_loss
    return DetectorLosses(total, obj, cls, box, points_loss)


def soft_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Element-wise cross entropy, weighted by the square of the error; targets in 0..1."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (logits.sigmoid() - target).square() * entropy


def eiou_loss(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """EIoU loss and intersection over union of each pair of N x 4 boxes (left, top, width, height)."""
    low, high = found[:, :2], found[:, :2] + found[:, 2:]
    true_low, true_high = truth[:, :2], truth[:, :2] + truth[:, 2:]
    shared = (torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp(min=0).prod(1)
    overlap = shared / (found[:, 2:].prod(1) + truth[:, 2:].prod(1) - shared).clamp(min=1e-6)
    hull = torch.maximum(high, true_high) - torch.minimum(low, true_low)
    apart = ((low + high - true_low - true_high) / 2).square().sum(1) / hull.square().sum(1).clamp(min=1e-6)
    sizes = ((found[:, 2:] - truth[:, 2:]).square() / hull.square().clamp(min=1e-6)).sum(1)
    return 1 - overlap + apart + sizes, overlap
