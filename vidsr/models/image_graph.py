"""Other people's networks for single images: ONNX graphs with their card, run by ONNX Runtime as they are.

The graph has one input, images 1 x 3 x h x w, RGB in 0..1, and one output of `scale` times the size.
`models/zoo.py` imports them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidsr.config import LARGEST_SCALE
from vidsr.errors import ModelError, VidsrError
from vidsr.models.cards import Card
from vidsr.models.registry import config_of
from vidsr.nets.base import Network
from vidsr.nets.requirements import refuse_unmet
from vidsr.runtime.memory import is_out_of_memory
from vidsr.runtime.onnx_session import start_session
from vidsr.toml import shortened

LARGEST_SIDE = 512  # of a fixed size, as of every number in the card of a network
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ImageGraphConfig:
    """What is known of a graph; all of it was found or measured when the graph was imported.

    `network`: the architecture in words. `multiple_of`, `minimum`: both sides of an image are multiples of the one and
    at least the other. `fixed_height`, `fixed_width`: the only size that the graph takes, 0 for any. `precision`: that
    of input and output. `overlap`: of tiles, in input pixels; beyond it a tile differed from the whole image by
    `tile_difference` at most, in units of 0..1. `bytes_per_pixel`: peak memory per input pixel. `parameters`,
    `multiply_adds` (per input pixel): 0 if they were not counted.
    """

    network: str
    scale: int
    multiple_of: int
    minimum: int
    fixed_height: int
    fixed_width: int
    colors: Literal["RGB, 0 to 1"]
    precision: Literal["fp32", "fp16"]
    overlap: int
    tile_difference: float
    bytes_per_pixel: float
    parameters: float
    multiply_adds: float

    def __post_init__(self) -> None:
        """Raises ValueError, naming the violated requirement, for an invalid configuration."""
        fixed = self.fixed_height, self.fixed_width
        requirements = {
            f"scale is 1 to {LARGEST_SCALE}": 1 <= self.scale <= LARGEST_SCALE,
            "multiple_of and minimum are 1 or more": min(self.multiple_of, self.minimum) >= 1,
            f"fixed sides are both 0, or both 16 to {LARGEST_SIDE}": fixed == (0, 0)
            or all(16 <= side <= LARGEST_SIDE for side in fixed),
            "bytes_per_pixel is above 0": self.bytes_per_pixel > 0,
            "overlap, tile_difference, parameters and multiply_adds are 0 or more": min(
                self.overlap, self.tile_difference, self.parameters, self.multiply_adds
            )
            >= 0,
        }
        refuse_unmet(requirements)

    @property
    def lookahead(self) -> int:
        """0: every image is enlarged on its own."""
        return 0

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the only size that the graph takes; None if it takes others."""
        return (self.fixed_height, self.fixed_width) if self.fixed_height else None

    @property
    def size_rule(self) -> str:
        """The sizes that the graph takes, in words."""
        if self.fixed_size is not None:
            return f"{self.fixed_width}x{self.fixed_height} only; larger frames are divided"
        rules = [f"multiples of {self.multiple_of}"] if self.multiple_of > 1 else []
        rules += [f"{self.minimum} pixels or more"] if self.minimum > 1 else []
        return " and ".join(rules) or "any"

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """The smallest height and width that the graph takes and an image of this size fits in."""
        if self.fixed_size is not None:
            return self.fixed_size
        step = self.multiple_of
        rounded = [-(-max(side, self.minimum) // step) * step for side in (height, width)]
        return rounded[0], rounded[1]


class ImageGraph(Network):
    """A graph as a network: images B x 3 x h x w in 0..1 to their enlargement, float32, not clamped, on the CPU.

    Images are padded by repeating their edges to a size that the graph takes, and may not be larger than a fixed one.
    """

    def __init__(self, config: ImageGraphConfig, content: bytes, name: str) -> None:
        """`content` is the ONNX file, `name` that of the model, for messages."""
        super().__init__()
        self.config: ImageGraphConfig = config
        self.content, self.name = content, name
        self._run: Run | None = None

    def parameter_counts(self) -> dict[str, int]:
        """As the card states them."""
        return {"graph": int(self.config.parameters)}

    def forward(self, images: Tensor) -> Tensor:
        """Runs the graph on the CPU, one image after the other. Raises ModelError if it cannot be run."""
        if self._run is None:
            self._run = self.start(torch.device("cpu"), torch.get_num_threads())
        return torch.cat([self._run(image[None]) for image in images])

    def start(self, device: torch.device, threads: int) -> Run:
        """The graph as a function, 1 x 3 x h x w to 1 x 3 x H x W, with ONNX Runtime on a device.

        Raises DeviceError or UsageError if ONNX Runtime cannot use the device or is missing, ModelError if it cannot
        read the graph. The function raises ModelError if the graph fails or computes something else.
        """
        session = open_graph(self.content, self.name, device, threads)
        source, result = session.get_inputs()[0].name, session.get_outputs()[0].name
        kind = np.float16 if self.config.precision == "fp16" else np.float32
        scale = self.config.scale

        def run(image: Tensor) -> Tensor:
            height, width = image.shape[-2:]
            rows, columns = self.config.sides(height, width)
            assert rows >= height and columns >= width, "larger images are divided before"
            padded = F.pad(image, (0, columns - width, 0, rows - height), mode="replicate")
            given = padded.detach().to("cpu", torch.float32).contiguous().numpy().astype(kind, copy=False)
            try:
                (found,) = session.run([result], {source: given})
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                if is_out_of_memory(error):
                    raise
                reason = shortened(" ".join(str(error).split()))
                raise ModelError(
                    f"the model '{self.name}' cannot be run on {columns}x{rows} pixels: {reason}"
                ) from error
            self._check(found, rows, columns)
            large = torch.from_numpy(found.astype(np.float32, copy=False)).to(image.device)
            return large[..., : scale * height, : scale * width]

        return run

    def _check(self, found: NDArray[Any], height: int, width: int) -> None:
        """Raises ModelError for a result of another shape, or with values that are not finite."""
        scale = self.config.scale
        if found.shape != (1, 3, scale * height, scale * width):
            raise ModelError(
                f"the model '{self.name}' makes {found.shape} of {width}x{height} pixels, which is not {scale} times "
                "the size: import it again"
            )
        if not np.isfinite(found).all():
            why = " because its half precision is too narrow" * (self.config.precision == "fp16")
            raise ModelError(f"the model '{self.name}' computes values that are not finite{why}: choose another model")


def load_graph(card: Card) -> ImageGraph:
    """The graph of a card whose file is known to be the right one. Raises ModelError as `config_of` does."""
    try:
        content = card.weights_path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {card.weights_path}: {error.strerror}") from error
    return ImageGraph(config_of(card.architecture, card.network), content, card.name)


def open_graph(content: bytes, name: str, device: torch.device, threads: int) -> Any:
    """A session of ONNX Runtime for a graph. Raises DeviceError, UsageError, or ModelError if it is no such file."""
    try:
        remedy = "use --device cpu, or another model"
        return start_session(content, device, threads, is_exact=True, remedy=remedy, has_plans=False)
    except VidsrError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        if is_out_of_memory(error):
            raise
        reason = shortened(" ".join(str(error).split()))
        raise ModelError(f"the graph of '{name}' cannot be read by ONNX Runtime: {reason}") from error
