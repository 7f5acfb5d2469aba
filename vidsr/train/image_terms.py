"""The terms of a loss that any network's images can have: those of [correlation], [perceptual] and [adversarial]."""

from __future__ import annotations

from torch import Tensor

from vidsr.runtime.device import training_autocast
from vidsr.train.adversarial import Adversary
from vidsr.train.losses import correlation_loss, perceptual_loss
from vidsr.train.perceptual import Distance
from vidsr.train.recipe import Recipe


def add_image_terms(
    found: dict[str, Tensor], total: Tensor, results: Tensor, truth: Tensor, recipe: Recipe,
    distance: Distance | None, adversary: Adversary | None,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses `found` and those of the recipe's tables, for B x T x 3 x H x W in 0..1, and their sum as `total`.

    `total` is the weighted sum of `found`.
    """
    found, images, true_images = dict(found), results.flatten(0, 1), truth.flatten(0, 1)
    if recipe.correlation is not None:
        sizes = recipe.correlation.size, recipe.correlation.dilation
        found["correlation"] = correlation_loss(images, true_images, *sizes)
        total = total + recipe.correlation.weight * found["correlation"]
    with training_autocast(truth.device):
        if recipe.perceptual is not None and distance is not None:
            found["perceptual"] = perceptual_loss(results, truth, distance, recipe.perceptual.crop)
            total = total + recipe.perceptual.weight * found["perceptual"]
        if recipe.adversarial is not None and adversary is not None:
            found["adversarial"] = adversary.judge(images, true_images)
            total = total + recipe.adversarial.weight * found["adversarial"]
    return {"total": total} | found
