"""The export step of a HIME."""

from __future__ import annotations

from torch import Tensor

from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.hime.network import HIME

REFERENCES = 3  # of a graph; as many as the dissertation trains and tests with


class HIMEStep(Step):
    """An image 1 x 3 x h x w in 0..1 and three references to its enlargement, not clamped, and their weights.

    `present`, 1 x 3, is 1 for each reference that exists, else 0; the others may hold anything finite.
    """

    def __init__(self, network: HIME) -> None:
        """Shares the weights of `network`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """Shapes of the image, the references and `present`."""
        scale = self.network.config.scale
        references = (REFERENCES, 3, scale * height, scale * width)
        return {"image": (1, 3, height, width), "references": references, "present": (1, REFERENCES)}

    def outputs(self, height: int, width: int) -> Shapes:
        """Shapes of the enlarged image and of the weights at every pixel of the small one."""
        scale = self.network.config.scale
        return {"result": (1, 3, scale * height, scale * width), "weights": (1, REFERENCES, height, width)}

    def forward(self, image: Tensor, references: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the network."""
        image_and_weights = self.network.restore(image, self.network.describe(references[None]), present)
        return image_and_weights.image, image_and_weights.weights
