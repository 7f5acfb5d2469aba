"""Attention-FH: a policy chooses, one after the other, the boxes of a face that a network restores.

Shi, Li, Cao, Wang, Lin, "Face Hallucination by Attentive Sequence Optimization with Reinforcement Learning". Where the
text is silent or wrong, this is what was chosen:

- Both images are reduced by their mean to table 1's 128 x 128 pixels for the policy, so that faces of any size fit.
- An action has three independent parts: the place of the center, the ratio and the height of the box. The GRU of the
  history reads the last action as the center's two coordinates in -1..1 and one-hot vectors, and nothing at first.
- The state is the two image features (64 each) and the history (64): 192 numbers; "512 x 1" is not explained.
- The local network has leaky ReLU with slope 0.2 after every layer but the last, and gives a residual (3.3). Its first
  layer takes 12 channels: masked patch, I_t, I_0 and I_G. For a scale of 4 it is table 2's; for 8 and 16, which the
  table does not give, one and two more deconvolutions follow the second. "Without interpolation" means every `scale`-th
  pixel of the large images.
- The context has `context_side` pixels a side and is enlarged by repeating them; the text has the input's size.
- Boxes may be blended at their edges (`fade`).

No code of the authors was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.attention_fh.boxes import HEIGHT, PLACE, RATIO, choices, masks, rectangles
from vidsr.nets.attention_fh.config import RATIOS, AttentionFHConfig
from vidsr.nets.base import Network
from vidsr.nets.layers.blocks import BicubicPhases, depth_to_space

SLOPE = 0.2
FEATURES = 64  # of an image (table 1)
EXTRACTOR = ((5, 8), (3, 8), (3, 16), (3, 32))  # kernel and channels of each convolution with stride 2 (table 1)


class Extractor(nn.Module):
    """The feature extractor of table 1: four convolutions with stride 2 and a linear layer."""

    def __init__(self, side: int) -> None:
        """For images of `side` x `side` pixels."""
        super().__init__()
        convolutions, before = [], 3
        for kernel, channels in EXTRACTOR:
            convolutions.append(nn.Conv2d(before, channels, kernel, 2, kernel // 2))
            before = channels
        self.convolutions = nn.ModuleList(convolutions)
        self.linear = nn.Linear(before * (side // 2 ** len(EXTRACTOR)) ** 2, FEATURES)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x side x side in -1..1 to B x 64."""
        for convolution in self.convolutions:
            image = F.leaky_relu(convolution(image), SLOPE)
        features: Tensor = self.linear(image.flatten(1))
        return features


class LocalNetwork(nn.Module):
    """The local enhancement network of table 2, a small LapSRN; one more deconvolution for each doubling above 4."""

    def __init__(self, channels: int, scale: int) -> None:
        """`channels` in; `scale` is 4, 8 or 16."""
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 64, 5, padding=2), nn.Conv2d(64, 32, 3, padding=1), _doubling(32, 32),
            nn.Conv2d(32, 32, 3, padding=1), _doubling(32, 8),
        ]  # fmt: skip
        layers += [_doubling(8, 8) for _ in range(scale.bit_length() - 3)]
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 5, padding=2)]
        self.layers = nn.ModuleList(layers)
        last = layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        last.weight.data.mul_(0.1)  # the training starts close to the enlarged input
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """B x channels x h x w to the residual, B x 3 x H x W."""
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
        residual: Tensor = self.layers[-1](x)
        return residual


def _doubling(before: int, after: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 3, 2, padding=1, output_padding=1)


class GatedUnit(nn.Module):
    """A gated recurrent unit (Cho et al., 2014) of plain linear layers, which export and run on every device."""

    def __init__(self, given: int, units: int) -> None:
        """`given` inputs; `units` values of memory."""
        super().__init__()
        self.given, self.memory = nn.Linear(given, 3 * units), nn.Linear(units, 3 * units)

    def forward(self, given: Tensor, memory: Tensor) -> Tensor:
        """B x given and B x units to the next memory, B x units."""
        new, old = self.given(given).chunk(3, dim=1), self.memory(memory).chunk(3, dim=1)
        reset, update = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        candidate = torch.tanh(new[2] + reset * old[2])
        return candidate + update * (memory - candidate)


class Look(NamedTuple):
    """What the policy sees before a step: the state, B x 192, and the memories of its two GRUs."""

    state: Tensor
    history: Tensor
    hidden: Tensor
    logits: tuple[Tensor, Tensor, Tensor]


class Step(NamedTuple):
    """One step for B faces.

    `image` is I_t, B x 3 x H x W in -1..1; `enhanced` the network's result before the box was cut out; `mask` the box,
    B x 1 x H x W in 0..1; `action` B x 3; `log_probability` of the action, B.
    """

    image: Tensor
    enhanced: Tensor
    mask: Tensor
    action: Tensor
    log_probability: Tensor


class AttentionFH(Network):
    """The complete network: images B x 3 x h x w in 0..1 to B x 3 x H x W float32, not clamped."""

    def __init__(self, config: AttentionFHConfig) -> None:
        """Builds the network of `config`."""
        super().__init__()
        self.config: AttentionFHConfig = config
        state = 2 * FEATURES + config.history
        self.bicubic = BicubicPhases(config.scale)
        self.extractor = Extractor(config.side)
        self.history = GatedUnit(2 + len(RATIOS) + len(config.heights), config.history)
        self.policy = GatedUnit(state, config.hidden)
        self.heads = nn.ModuleList(nn.Linear(config.hidden, count) for count in choices(config))
        self.context = nn.Linear(state, config.context_channels * config.context_side**2)
        self.local = LocalNetwork(9 + config.context_channels, config.scale)

    def forward(self, image: Tensor, actions: Tensor | None = None) -> Tensor:
        """The restored faces. `actions` (B x T x 3) replace the policy's most likely boxes, as in later frames.

        T may be another number of steps than the configuration's.
        """
        chosen = None if actions is None else actions.unbind(1)
        return (self.steps(image, chosen)[-1].image + 1) / 2

    def steps(
        self, image: Tensor, actions: Sequence[Tensor | None] | None = None, generator: torch.Generator | None = None,
        sample: bool = False, count: int | None = None,
    ) -> list[Step]:  # fmt: skip
        """All steps for faces B x 3 x h x w in 0..1; Algorithm 1 without its updates.

        `actions` are given boxes, one tensor B x 3 per step; None in their place lets the policy choose: the most
        likely box, or with `sample` a random one by the policy's probabilities. `count` steps instead of as many as
        there are actions, or without any the configuration's. The image of a step is detached before the next one, as
        each step has its own update.
        """
        small = 2 * image - 1
        large = self.enlarge(image)
        current, before = large, self.extractor(self._reduced(large))
        history = small.new_zeros(len(small), self.config.history)
        hidden = small.new_zeros(len(small), self.config.hidden)
        steps: list[Step] = []
        if count is None:
            count = self.config.steps if actions is None else len(actions)
        for number in range(count):
            look = self._look(current, before, history, hidden)
            given = None if actions is None else actions[number]
            action = self._choose(look, sample, generator) if given is None else given
            steps.append(self._step(small, large, current, look, action))
            current = steps[-1].image.detach()
            history = self.history(self._encoded(action, small), look.history)
            hidden = look.hidden
        return steps

    def enlarge(self, image: Tensor) -> Tensor:
        """I_0: faces B x 3 x h x w in 0..1 enlarged by Keys' bicubic interpolation, B x 3 x H x W in -1..1."""
        return depth_to_space(self.bicubic(2 * image - 1), self.config.scale)

    def _look(self, current: Tensor, before: Tensor, history: Tensor, hidden: Tensor) -> Look:
        state = torch.cat((self.extractor(self._reduced(current)), before, history), dim=1)
        hidden = self.policy(state, hidden)
        place, ratio, height = (head(hidden) for head in self.heads)
        return Look(state, history, hidden, (place, ratio, height))

    def _choose(self, look: Look, sample: bool, generator: torch.Generator | None) -> Tensor:
        if not sample:
            return torch.stack([logits.argmax(dim=1) for logits in look.logits], dim=1)
        drawn = [torch.multinomial(logits.softmax(dim=1), 1, generator=generator) for logits in look.logits]
        return torch.cat(drawn, dim=1)

    def _step(self, small: Tensor, large: Tensor, current: Tensor, look: Look, action: Tensor) -> Step:
        height, width = current.shape[-2:]
        boxes = rectangles(action, self.config).to(current.dtype)
        fade = self.config.fade * height / self.config.side
        box, blend = masks(boxes, height, width), masks(boxes, height, width, fade)
        enhanced = large + self.local(self._inputs(small, current, box, look.state)).to(large.dtype)
        image = current + blend * (enhanced - current)
        chosen = [
            logits.log_softmax(dim=1).gather(1, action[:, part, None])[:, 0] for part, logits in enumerate(look.logits)
        ]
        return Step(image, enhanced, box, action, sum(chosen[1:], chosen[0]))

    def _inputs(self, small: Tensor, current: Tensor, box: Tensor, state: Tensor) -> Tensor:
        """The local network's input at the size of the face: masked patch, I_t, I_0 and I_G."""
        scale, sides = self.config.scale, self.config.context_side
        first = scale // 2
        patch = (current * box)[..., first::scale, first::scale]
        context = self.context(state).view(len(small), self.config.context_channels, sides, sides)
        context = F.interpolate(context, size=small.shape[-2:], mode="nearest")
        return torch.cat((patch, current[..., first::scale, first::scale], small, context.to(small.dtype)), dim=1)

    def _reduced(self, image: Tensor) -> Tensor:
        """The image on the policy's grid, by means of pixels."""
        side = self.config.side
        return image if image.shape[-2:] == (side, side) else F.adaptive_avg_pool2d(image, side)

    def _encoded(self, action: Tensor, like: Tensor) -> Tensor:
        """An action for the GRU of the history, B x (2 + ratios + heights)."""
        grid = self.config.grid
        rows, columns = action[:, PLACE] // grid, action[:, PLACE] % grid
        center = torch.stack((columns, rows), dim=1).to(like.dtype)
        center = (2 * center + 1) / grid - 1
        one_hot = [
            F.one_hot(action[:, part], most).to(like.dtype)
            for part, most in ((RATIO, len(RATIOS)), (HEIGHT, len(self.config.heights)))
        ]
        return torch.cat((center, *one_hot), dim=1)
