"""The training task of Attention-FH: single faces; the local network first, then with it the policy."""

from __future__ import annotations

import torch
from torch import Tensor

from vidsr.nets.attention_fh.boxes import sequential_actions
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.nets.layers.resize import resize
from vidsr.runtime.device import training_autocast
from vidsr.train.adversarial import Adversary
from vidsr.train.data import Batch
from vidsr.train.degrade import degrade_bi
from vidsr.train.face_clips import FaceClip
from vidsr.train.face_task import luma_psnr
from vidsr.train.perceptual import Distance
from vidsr.train.policy import attention_losses
from vidsr.train.recipe import Recipe, refuse_unfit


class PolicyTask:
    """Attention-FH: every frame of a sample is a face of its own."""

    min_frames = 1

    def check(self, network: AttentionFH, recipe: Recipe) -> None:
        """Refuses tables and settings that have no meaning here."""
        others = recipe.perceptual, recipe.correlation, recipe.adversarial, recipe.restarts
        demands = {
            "needs the tables [faces] and [policy]": recipe.faces is not None and recipe.policy is not None,
            f"needs network.scale = {network.config.scale}, by which samples are reduced": recipe.scale
            == network.config.scale,
            "has no burn-in: set data.burn_in_share to 0": recipe.data.burn_in_share == 0,
            "cannot use the tables [perceptual], [correlation], [adversarial] and [restarts]: remove them": not any(
                others
            ),
        }
        refuse_unfit(demands, recipe)

    def losses(
        self,
        network: AttentionFH,
        batch: Batch,
        recipe: Recipe,
        pretraining: bool,
        distance: Distance | None,  # noqa: ARG002 - see check
        adversary: Adversary | None = None,  # noqa: ARG002 - see check
    ) -> dict[str, Tensor]:
        """Algorithm 1; `pretraining` trains only the local network, in random boxes."""
        assert recipe.policy is not None, "see check"
        low, truth = batch.low.flatten(0, 1), batch.truth.flatten(0, 1)
        random = torch.Generator(low.device).manual_seed(batch.seed)
        with training_autocast(low.device):
            found = attention_losses(network, low, truth, recipe.policy, pretraining, random)
        return found._asdict()

    def scores(self, network: AttentionFH, clip: FaceClip, device: torch.device) -> dict[str, float]:
        """How far the PSNR of Y is above that of bicubic enlargement, with the policy's boxes and in reading order."""
        truth, config = clip.truth[:1], network.config
        low = degrade_bi(truth, config.scale)
        before = luma_psnr(truth, resize(low, (truth.shape[-2], truth.shape[-1])))
        actions = torch.stack([sequential_actions(1, k, config) for k in range(config.steps)], dim=1)
        with training_autocast(device):
            chosen, in_sequence = network(low.to(device)), network(low.to(device), actions.to(device))
        return {
            "gain": luma_psnr(truth, chosen) - before,
            "gain_in_sequence": luma_psnr(truth, in_sequence) - before,
        }
