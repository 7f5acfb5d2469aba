"""The training task of MPENet: clips of faces with labels; the losses of all steps and of both branches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vidsr.evaluation.metrics import decibels, luma, squared_errors, to_8_bits
from vidsr.nets.layers.resize import resize
from vidsr.nets.mpenet.alignment import draw_heatmaps
from vidsr.nets.mpenet.network import Feedback, MPENet, Restored, moved
from vidsr.runtime.device import training_autocast
from vidsr.train.adversarial import Adversary
from vidsr.train.data import Batch
from vidsr.train.degrade import degrade_bi
from vidsr.train.degrade_real import degrade_jpeg
from vidsr.train.face_clips import FaceClip
from vidsr.train.image_terms import add_image_terms
from vidsr.train.perceptual import Distance
from vidsr.train.prior_losses import heatmap_loss, steps_loss, unit_loss, unit_weights
from vidsr.train.recipe import FacesConfig, Recipe, refuse_unfit

VALIDATION_QUALITY = 40  # JPEG quality
BORDER = 8  # pixels that scores leave out


class FacePriorTask:
    """MPENet: a sample is a face in one frame, or in several, each of which starts from the feedback of the last."""

    min_frames = 1

    def check(self, network: MPENet, recipe: Recipe) -> None:
        """Refuses samples without labels, and labels that the network has no branch for."""
        faces, config = recipe.faces, network.config
        needs_files = config.points not in (0, 5) or bool(config.units)
        demands = {
            "needs the table [faces]": faces is not None,
            f"needs network.scale = {config.scale}, by which samples are reduced": recipe.scale == config.scale,
            'needs faces.labels = "files" for action units, and for other than 5 points': faces is None
            or not needs_files
            or faces.labels == "files",
            "needs network.steps of 2 or more for clips: set data.frames to 1": config.steps > 1
            or recipe.data.frames == 1,
            "takes action units only in single frames: set data.frames to 1": not config.units
            or recipe.data.frames == 1,
            "has burn-in only with network.steps of 2 or more": config.steps > 1 or recipe.data.burn_in_share == 0,
            "has no pretraining: set optimisation.fusion_steps to 0": recipe.optimisation.fusion_steps == 0,
            "cannot use the table [restarts]: remove it": recipe.restarts is None,
        }
        refuse_unfit(demands, recipe)

    def losses(
        self,
        network: MPENet,
        batch: Batch,
        recipe: Recipe,
        pretraining: bool,  # noqa: ARG002 - nothing to pretrain
        distance: Distance | None,
        adversary: Adversary | None = None,
    ) -> dict[str, Tensor]:
        """Equation (13). Every frame counts in (9), the first one with each of its steps."""
        assert batch.points is not None and batch.motions is not None and recipe.faces is not None, "see check"
        device, truth = batch.low.device, batch.truth
        frames = list(_restored(network, batch.low, batch.motions, batch.burn_in, device))
        epsilon = recipe.optimisation.charbonnier_epsilon
        parts = [steps_loss(each.images, truth[:, t], epsilon) for t, each in enumerate(frames)]
        found = {"final": torch.stack(parts).mean()}
        total = found["final"]
        if network.alignment is not None:
            found["heatmaps"] = self._heatmap_loss(frames, batch.points, recipe.faces)
            total = total + recipe.faces.align_weight * found["heatmaps"]
        if frames[0].units is not None:
            found["units"] = _unit_loss(frames[0].units, batch, recipe.faces)
            total = total + recipe.faces.unit_weight * found["units"]
        results = torch.stack([each.images[-1] for each in frames], dim=1)
        return add_image_terms(found, total, results, truth, recipe, distance, adversary)

    def scores(self, network: MPENet, clip: FaceClip, device: torch.device) -> dict[str, float]:
        """How far the PSNR of Y is above that of bicubic enlargement: every frame afresh, and as a video.

        For bicubic reduction, and with JPEG compression after it.
        """
        scale, truth, scores = network.config.scale, clip.truth, {}
        for name, low in (("", degrade_bi(truth, scale)), ("_jpeg", degrade_jpeg(truth, VALIDATION_QUALITY, scale))):
            bicubic = resize(low, (truth.shape[-2], truth.shape[-1]))
            before = luma_psnr(truth, bicubic)
            with training_autocast(device):
                afresh = network(low.to(device))
            scores[f"gain{name}_afresh"] = luma_psnr(truth, afresh) - before
            if network.config.steps > 1:
                frames = _restored(network, low[None].to(device), clip.motions[None].to(device), 0, device)
                video = torch.cat([each.images[-1] for each in frames])
                scores[f"gain{name}_video"] = luma_psnr(truth, video) - before
        return scores

    def _heatmap_loss(self, frames: list[Restored], points: Tensor, faces: FacesConfig) -> Tensor:
        """(5) over all frames."""
        parts = []
        for t, each in enumerate(frames):
            assert each.heatmaps is not None
            height, width = each.heatmaps.shape[-2:]
            true_maps = draw_heatmaps(points[:, t], height, width, faces.heatmap_sigma)
            parts.append(heatmap_loss(each.heatmaps.float(), true_maps))
        return torch.stack(parts).mean()


def _unit_loss(scores: Tensor, batch: Batch, faces: FacesConfig) -> Tensor:
    assert batch.units is not None and batch.unit_rates is not None, "see check and labels_of"
    weights = unit_weights(batch.unit_rates)
    return unit_loss(scores.float(), batch.units[:, 0], weights, faces.dice_smooth)


def _restored(network: MPENet, low: Tensor, motions: Tensor, burn_in: int, device: torch.device) -> Iterator[Restored]:
    """The frames of clips from number `burn_in` on; the first frame of all goes through all steps.

    Frames before have no gradient. `low` is B x T x 3 x h x w, `motions` B x T x 2 x 3.
    """
    feedback: Feedback | None = None
    for t in range(low.shape[1]):
        with torch.set_grad_enabled(torch.is_grad_enabled() and t >= burn_in), training_autocast(device):
            if feedback is None:
                restored = network.restore(low[:, t])
            else:
                restored = network.advance(low[:, t], moved(feedback, motions[:, t]))
            feedback = network.feedback(restored) if t + 1 < low.shape[1] else None
        if t >= burn_in:
            yield restored


def luma_psnr(truth: Tensor, result: Tensor) -> float:
    """PSNR of Y in dB, without a border of 8 pixels, of images N x 3 x H x W in 0..1 as they are written, in 8 bits."""
    images = to_8_bits(result.float().cpu().clamp(0, 1))
    return decibels(float(squared_errors(truth, images, BORDER, luma).mean()))
