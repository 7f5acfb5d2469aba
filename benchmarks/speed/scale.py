"""What a frame costs on this processor, and what many hours of such video would take on graphics cards.

    python -m benchmarks.speed.scale VIDEO [--frames N] [--json FILE]
    python -m benchmarks.speed.scale --measured FILE [--peak TFLOPS] [--fraction LOW HIGH] [--cores N] [--cards N ...]

The first form measures processor seconds of decoding, networks and encoding, not wall seconds, so that other programs
disturb little, and the sizes of files. The second one calculates a table from them; nothing in it about cards is
measured, and docs/scale.md shows the formulas. VIDEO is like the videos that are to be enlarged, such as 854x480.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.clips import markdown
from vidsr.config import ComputeConfig, InputConfig, OutputConfig, RestoreConfig, SizeConfig, UpscaleConfig
from vidsr.engines.select import build_engine, select
from vidsr.models.cards import sha256_of
from vidsr.nets.layers.resize import resize
from vidsr.pipeline.plan import plan
from vidsr.stages.base import chain
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Frame
from vidsr.video.reader import Reader
from vidsr.video.sources import open_writer

# Output size as a factor, the model that makes it, and its multiply-adds per input pixel (docs/models.md).
RESULTS = ((4, "secnet-fast", 291_896), (2, "secnet-fast-x2", 77_600))
RATE = 25.0
HOURS = 1000


@contextmanager
def counted(seconds: list[float]) -> Iterator[None]:
    """Adds the processor seconds of the block, of all threads."""
    started = time.process_time()
    yield
    seconds[0] += time.process_time() - started


def measure(video: Path, count: int) -> dict[str, Any]:
    """Processor seconds per frame of each part, and bytes per second of video."""
    torch.set_num_threads(1)
    decoding, scenes = [0.0], [0.0]
    with Reader(video, InputConfig(), torch.device("cpu")) as reader:
        with counted(decoding):
            frames = list(islice(reader.frames(), count))
        info = reader.info
    with counted(scenes):
        list(chain([SceneMarker(UpscaleConfig().scenes)], frames))
    found: dict[str, Any] = {
        "size": [info.width, info.height], "frames": len(frames), "decode": decoding[0] / len(frames),
        "scenes": scenes[0] / len(frames), "capability": torch.backends.cpu.get_cpu_capability(),
        "input_bytes": video.stat().st_size / float(info.header_duration_seconds or 1), "video": sha256_of(video)[:12],
        "results": [],
    }  # fmt: skip
    for scale, model, multiply_adds in RESULTS:
        network = network_seconds(frames[:4], model)
        encode, size = encoding(video, frames, scale)
        found["results"].append({
            "scale": scale, "model": model, "multiply_adds": multiply_adds, "network": network, "encode": encode,
            "output_bytes": size,
        })  # fmt: skip
    return found


def network_seconds(frames: list[Frame], model: str) -> float:
    height, width = frames[0].image.shape[-2:]
    engine = build_engine(select(ComputeConfig(model=model, device="cpu"), "upscale", height, width)).engine
    state, seconds = engine.init_state(height, width), [0.0]
    _, state = engine.step(frames[0], state)
    for frame in frames[1:]:
        with counted(seconds):
            _, state = engine.step(frame, state)
    return seconds[0] / (len(frames) - 1)


def encoding(video: Path, frames: list[Frame], scale: int) -> tuple[float, float]:
    """Processor seconds per frame of encoding, with writing and checking the file, and bytes per second of video."""
    config = UpscaleConfig(
        compute=ComputeConfig(model="bicubic", device="cpu"), faces=RestoreConfig(use=False),
        size=SizeConfig(scale=scale), output=OutputConfig(audio="none"),
    )  # fmt: skip
    seconds = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "result.mp4")
        planned = plan(video, target, config)
        width, height = planned.expected.size
        with open_writer(planned.written) as writer:
            for frame in frames:
                image = resize(frame.image, (height, width)).clamp(0, 1)
                with counted(seconds):
                    writer.write(replace(frame, image=image))
            with counted(seconds):
                writer.commit(False, ())
        size = target.stat().st_size
    length = sum(float(frame.duration * frame.time_base) for frame in frames)
    return seconds[0] / len(frames), size / length


def show_measured(found: dict[str, Any]) -> None:
    width, height = found["size"]
    print(
        f"{width}x{height}, {found['frames']} frames, {found['capability']}, one thread; processor seconds per frame\n"
    )
    rows = [
        ("decoding", f"{found['decode']:.4f}", f"{found['input_bytes'] * 3600 / 1e9:.2f} GB an hour"),
        ("scene search", f"{found['scenes']:.4f}", ""),
    ]
    for each in found["results"]:
        size = f"{each['scale'] * width}x{each['scale'] * height}"
        rate = each["multiply_adds"] * width * height / each["network"] / 1e9
        rows.append((f"{each['model']} to {size}", f"{each['network']:.3f}", f"{rate:.1f} G multiply-adds a second"))
        rows.append(
            (f"encoding {size}", f"{each['encode']:.3f}", f"{each['output_bytes'] * 3600 / 1e9:.1f} GB an hour")
        )
    print(markdown(("part", "seconds", ""), rows))


def show_scale(found: dict[str, Any], options: argparse.Namespace) -> None:
    width, height = found["size"]
    frames = HOURS * 3600 * RATE
    rows = []
    for each in found["results"]:
        operations = 2 * each["multiply_adds"] * width * height
        rest = found["decode"] + found["scenes"] + each["encode"]
        rates = [options.peak * 1e12 * part / operations for part in options.fraction]  # frames a second of a card
        for cards in options.cards:
            network = [frames / rate / cards / 3600 for rate in reversed(rates)]
            cores = frames * rest / (options.cores * cards) / 3600
            both = [max(time, cores) for time in network]
            money = [time * cards * price for time, price in zip(both, options.price, strict=True)]
            written = 2 * each["output_bytes"] * HOURS * 3600 / (both[0] * 3600) / 1e6
            rows.append((
                f"x{each['scale']}, {each['model']}", str(cards), span(network), span([cores, cores]), span(both),
                span(money), f"{written:,.0f} MB/s",
            ))  # fmt: skip
        print(f"x{each['scale']}: a card makes {span(rates)} frames a second, which keep "
              f"{span([rate * rest for rate in rates])} cores busy")  # fmt: skip
    low, high = options.fraction
    print(f"\n{HOURS} hours, {RATE:g} frames a second, cards of {options.peak:g} TFLOPS of which {low:.0%} to "
          f"{high:.0%} are reached, {options.cores} cores a card\n")  # fmt: skip
    columns = ("result", "cards", "hours of the networks", "hours of the cores", "both at once", "money", "written")
    print(markdown(columns, rows))


def span(values: list[float]) -> str:
    """The lowest and the highest of two values, or one of them if they look alike."""
    low, high = (f"{value:.1f}" if value < 10 else f"{value:,.0f}" for value in values)
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Costs of a frame, and of many hours.")
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="calculate from the JSON of an earlier run")
    parser.add_argument("--peak", type=float, default=312.0, help="of a card, TFLOPS in 16 bits without sparsity")
    parser.add_argument("--fraction", type=float, nargs=2, default=(0.05, 0.3), metavar=("LOW", "HIGH"))
    parser.add_argument("--cores", type=int, default=16, help="processor cores beside each card")
    parser.add_argument("--price", type=float, nargs=2, default=(1.0, 3.0), metavar=("LOW", "HIGH"),
                        help="of an hour of a card with its cores")  # fmt: skip
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 8, 100])
    options = parser.parse_args()
    if (options.video is None) == (options.measured is None):
        parser.error("give either VIDEO or --measured FILE")
    if options.measured is None:
        found = measure(options.video, options.frames)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=2) + "\n")
    else:
        found = json.loads(options.measured.read_text())
    show_measured(found)
    print()
    show_scale(found, options)


if __name__ == "__main__":
    main()
