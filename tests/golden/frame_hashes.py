"""Proves that a change left the results alone: hashes of what the command line makes, before it and after it.

    python tests/golden/frame_hashes.py --save before.json                 # in the checkout before the change
    python tests/golden/frame_hashes.py --compare before.json              # in the one after it: 1 if a result differs
    python tests/golden/frame_hashes.py --interface --save interface.json  # option names, exit codes, keys of JSON, ...
    python tests/golden/frame_hashes.py --interface --compare interface.json

Every run is a real command (`python -m vidsr ...`) on small videos that this script makes itself, and on a file of
`samples/` where a face is needed. Results are encoded with FFV1, which is lossless, then decoded: what is hashed are
frames, their times, their format, and the packets of the other streams. Device, precision and threads are given, so a
run repeated on the same machine gives the same bits. On another processor sums come in another order, and with them
other bits: the files of hashes are for one machine and one installation of torch and FFmpeg, and not committed.

Nothing of the package is imported, so the script works across renamed modules; `--checkout DIR` runs another checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HERE = Path(__file__).resolve().parents[2]
COMPUTE = ("--device", "cpu", "--threads", "1")
FP32 = (*COMPUTE, "--precision", "fp32")
LOSSLESS = ("--codec", "ffv1", "--progress", "none")

# ------------------------------------------------------------------------------------------------- input videos


def texture(number: int, width: int, height: int, scene: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A frame (height x width x 3, 0..1): waves and a disc that move by a fraction of a pixel from frame to frame."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    shift = 1.7 * number
    waves = [np.sin((columns * (5 + k + scene) + rows * (3 - k) - shift * (4 + k)) / 17.0) for k in range(3)]
    disc = (columns - width / 3 - shift) ** 2 + (rows - height / 2) ** 2 < (height / 5) ** 2
    frame = 0.5 + 0.3 * np.stack(waves, axis=-1) + 0.15 * disc[..., None] * np.array([1.0, -1.0, 0.5])
    return np.clip(1 - frame if scene else frame, 0, 1)


def write_video(
    path: Path,
    frames: list[np.ndarray[Any, np.dtype[np.float64]]],
    pixel_format: str = "yuv420p",
    ticks: list[int] | None = None,
    codec: str = "ffv1",
) -> None:
    """Frames with times in 1/1000 s (40 apart unless told) and, beside them, a tone of the same length."""
    height, width = frames[0].shape[:2]
    times = ticks or [40 * number for number in range(len(frames))]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:  # else Matroska gets a random identity
        # On AVX-512, x264's macroblock tree does not always encode a small video to the same bytes.
        repeatable = {"x264-params": "mbtree=0"} if codec == "libx264" else {}
        video = container.add_stream(codec, rate=25, options={"threads": "1"} | repeatable)
        video.width, video.height, video.pix_fmt = width, height, pixel_format
        video.codec_context.time_base = Fraction(1, 1000)
        audio_stream = container.add_stream("aac", rate=44100, layout="mono")
        for values, time in zip(frames, times, strict=True):
            levels = np.round(values * 65535).astype(np.uint16)
            frame = av.VideoFrame.from_ndarray(levels, format="rgb48le").reformat(format=pixel_format)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        length = int(44100 * (times[-1] + 40) / 1000)
        wave = (0.4 * np.sin(2 * np.pi * 440 * np.arange(length) / 44100)).astype(np.float32)
        tone = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = 44100, 0, Fraction(1, 44100)
        container.mux(audio_stream.encode(tone))
        container.mux(audio_stream.encode(None))


def make_inputs(folder: Path) -> None:
    """All videos that the runs name."""

    def moving(count: int, width: int, height: int) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
        return [texture(number, width, height) for number in range(count)]

    write_video(folder / "small.mkv", moving(7, 64, 48))
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 0.02, (48, 64, 3))
    write_video(folder / "noisy.mkv", [np.clip(frame + noise, 0, 1) for frame in moving(7, 64, 48)])
    write_video(folder / "odd.mkv", moving(4, 63, 47), "yuv444p")
    write_video(folder / "wide.mkv", moving(4, 150, 92))
    write_video(folder / "deep.mkv", moving(5, 64, 48), "yuv420p10le")
    write_video(folder / "h264.mp4", moving(12, 64, 48), codec="libx264")
    write_video(folder / "cut.mkv", moving(4, 64, 48) + [texture(number, 64, 48, 1) for number in range(4)])
    write_video(folder / "variable.mkv", moving(6, 64, 48), ticks=[0, 40, 73, 173, 200, 301])
    twice = [texture(2 * (number // 2), 64, 48) for number in range(10)]
    write_video(folder / "twos.mkv", moving(2, 64, 48) + twice)


# -------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Run:
    """One command; `{name}` in its arguments is an input video, {sample} the face sample, {out} the file it makes."""

    name: str
    arguments: tuple[str, ...]
    suffix: str = ".mkv"


def _run(name: str, command: str, *more: str, suffix: str = ".mkv") -> Run:
    verb, source, *options = command.split()
    return Run(name, (verb, source, "{out}", *options, *LOSSLESS, *more), suffix)


RUNS = (
    _run("upscale, bicubic", "upscale {small} --model bicubic", *FP32),
    _run("upscale, bicubic, scale 2.5, odd size, 4:4:4", "upscale {odd} --model bicubic --scale 2.5", *FP32),
    _run("upscale, secnet-fast", "upscale {h264} --model secnet-fast --no-faces", *FP32),
    _run("upscale, secnet-fast, bf16", "upscale {small} --model secnet-fast", *COMPUTE, "--precision", "bf16"),
    _run("upscale, secnet-fast, scale 2, a cut", "upscale {cut} --scale 2 --model secnet-fast", *FP32),
    _run("upscale, secnet-fast, tiles of 64", "upscale {wide} --tile 64 --model secnet-fast", *FP32),
    _run("upscale, secnet-fast, ONNX Runtime", "upscale {small} --backend onnx --model secnet-fast", *FP32),
    _run("upscale, secnet-fast, 10 bit", "upscale {deep} --model secnet-fast", *FP32),
    _run("upscale, secnet-fast, faces", "upscale {sample} --end 0.36 --model secnet-fast", *FP32),
    _run(
        "upscale, secnet-fast, faces, bf16",
        "upscale {sample} --end 0.2 --model secnet-fast",
        *COMPUTE,
        "--precision",
        "bf16",
    ),
    _run(
        "upscale, secnet-fast, faces at half strength",
        "upscale {sample} --end 0.2 --face-strength 0.5 --model secnet-fast",
        *FP32,
    ),
    _run("upscale, secnet-fast-face, no faces", "upscale {odd} --model secnet-fast-face --no-faces", *FP32),
    _run("slowmo, interp 2, sound stretched", "slowmo {h264}", *FP32),
    _run("slowmo, interp 4, a cut", "slowmo {cut} --interp 4", *FP32),
    _run("slowmo, keep duration, variable rate", "slowmo {variable} --keep-duration", *FP32),
    _run("slowmo, scale 4, bf16", "slowmo {small} --scale 4", *COMPUTE, "--precision", "bf16"),
    _run("slowmo, scale 4, tiles of 64", "slowmo {wide} --scale 4 --tile 64", *FP32),
    _run("slowmo, repeated frames, interp 2", "slowmo {twos}", *FP32),
    _run("slowmo, ONNX Runtime, 10 bit", "slowmo {deep} --backend onnx", *FP32),
    Run(
        "upscale to H.264",
        ("upscale", "{small}", "{out}", "--model", "secnet-fast", "--no-faces", "--progress", "none", *FP32),
        ".mp4",
    ),
    Run("faces, as JSON", ("faces", "{sample}", "--json", "{out}", "--end", "0.4", *COMPUTE), ".json"),
    Run("eval, as JSON", ("eval", "{small}", "{noisy}", "--json"), ".stdout"),
)


class Checkout:
    """The command line of one checkout, in a working folder with the input videos."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"}
        make_inputs(folder)
        self.names = {path.stem: str(path) for path in folder.iterdir()}
        self.names["sample"] = str(root / "samples/portrait_112x84.mp4")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m vidsr` with these arguments, whatever it exits with."""
        line = [sys.executable, "-m", "vidsr", *arguments]
        return subprocess.run(line, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)

    def must(self, *arguments: str) -> str:
        """The same, of a command that has to succeed: its stdout."""
        done = self.command(*arguments)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout


def sha(*parts: bytes) -> str:
    """The SHA-256 of parts, in short."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:24]


def hashes_of_video(path: Path) -> dict[str, Any]:
    """What a file shows and carries: a hash of every decoded frame, times, formats, and a hash of all other packets."""
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        formats = [stream.width, stream.height, stream.pix_fmt, str(stream.time_base), str(stream.average_rate)]
        for frame in container.decode(stream):
            frames.append(sha(frame.to_ndarray().tobytes()))
            times.append(frame.pts)
    others: dict[str, list[bytes]] = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.stream.type != "video" and packet.size:
                key = f"{packet.stream.index} {packet.stream.type}"
                others.setdefault(key, []).append(f"{packet.pts} {packet.duration} ".encode() + bytes(packet))
    packets = {key: {"packets": len(parts), "hash": sha(*parts)} for key, parts in others.items()}
    return {"format": formats, "times": times, "frames": frames, "other streams": packets}


def without_paths(value: Any) -> Any:
    """A JSON value whose strings that are paths stand without their folders, and without the version."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items() if key != "vidsr"}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


VOLATILE = {"stage_seconds", "wall_seconds", "peak_memory_bytes", "vidsr"}


def hashes_of(checkout: Checkout, run: Run) -> dict[str, Any]:
    """Does a run and hashes its result; for a video, what its report says goes along, except times and memory."""
    output = checkout.folder / f"result{run.suffix}"
    output.unlink(missing_ok=True)
    arguments = [part.format(out=output, **checkout.names) for part in run.arguments]
    if run.suffix in (".json", ".stdout"):
        stdout = checkout.must(*arguments)
        text = output.read_text() if run.suffix == ".json" else stdout
        return {"json": sha(json.dumps(without_paths(json.loads(text)), sort_keys=True).encode())}
    report = checkout.folder / "report.json"
    report.unlink(missing_ok=True)
    checkout.must(*arguments, "--report", str(report))
    told = without_paths(json.loads(report.read_text())["runs"][0])
    told = {key: value for key, value in sorted(told.items()) if key not in VOLATILE}
    told["warnings"] = len(told["warnings"])  # their wording is not a result
    return hashes_of_video(output) | {"report": told}


def all_hashes(checkout: Checkout, only: str) -> dict[str, Any]:
    """Every run's hashes, and those of the inputs, by which another machine or FFmpeg is recognized."""
    files = sorted(checkout.names.items())
    table: dict[str, Any] = {f"input {name}": {"hash": sha(Path(path).read_bytes())} for name, path in files}
    for run in RUNS:
        if only in run.name:
            print(f"  {run.name} ...", file=sys.stderr, flush=True)
            table[run.name] = hashes_of(checkout, run)
    return table


# --------------------------------------------------------------------------------------------------- interfaces

COMMANDS = ("", "upscale", "slowmo", "faces", "info", "eval", "bench", "train", "models")
MODEL_COMMANDS = ("list", "show", "verify", "import", "export")


def options_of(text: str) -> dict[str, dict[str, str]]:
    """From a command's --help: names of each option, with its choices and its default. Prose is left out."""
    options: dict[str, dict[str, str]] = {}
    last = ""
    for line in text.splitlines():
        cells = re.sub(r"^[│|]\s*(\*\s+)?", "", line.rstrip(" │|"))
        if re.match(r"--?[a-z]", cells) and line[:1] in "│|":
            names = re.match(r"((?:--?[\w-]+[\s,]*)+)", cells)
            last = " ".join(names.group(1).replace(",", " ").split()) if names else ""
            options[last] = {}
            choices = re.search(r"<([\w|]+\|[\w|]+)>|\[([\w|]+\|[\w|]+)\]", cells)
            if choices:
                options[last]["choices"] = choices.group(1) or choices.group(2)
        default = re.search(r"\[default: ([^\]]*)\]", line)
        if default and last:
            options[last]["default"] = default.group(1)
    return options


def keys_of(value: Any, place: str = "") -> Iterator[str]:
    """Paths of all keys in a JSON value, with the type at each leaf; elements of a list count as one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys_of(inner, f"{place}.{key}")
    elif isinstance(value, list):
        yield f"{place}[]"
        for inner in value:
            yield from keys_of(inner, f"{place}[]")
    else:
        yield f"{place}: {type(value).__name__}"


def damage(source: Path, path: Path) -> None:
    """A copy of an H.264 video with bits of its fourth to sixth packet flipped; the container stays whole."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[3:6]:
        for place in range(position + size // 4, position + size, 7):
            data[place] ^= 0x55
    path.write_bytes(data)


def exit_codes(checkout: Checkout) -> dict[str, int]:
    """What commands with each kind of mistake exit with."""
    small, folder = checkout.names["small"], checkout.folder
    (folder / "text.mp4").write_text("not a video\n")
    (folder / "there.mkv").write_text("already here\n")
    damage(Path(checkout.names["h264"]), folder / "damaged.mp4")
    bicubic = ("--model", "bicubic", "--progress", "none")
    commands: dict[str, tuple[str, ...]] = {
        "no command": (),
        "--version": ("--version",),
        "done": ("upscale", small, "done.mkv", *bicubic),
        "dry run": ("upscale", small, "dry.mkv", "--dry-run", *bicubic),
        "an unknown option": ("upscale", small, "a.mkv", "--sharper"),
        "a wrong scale": ("upscale", small, "b.mkv", "--scale", "9"),
        "a wrong choice": ("upscale", small, "c.mkv", "--precision", "fp8"),
        "scale and size": ("upscale", small, "d.mkv", "--scale", "2", "--size", "128x96"),
        "bicubic for slowmo": ("slowmo", small, "e.mkv", "--model", "bicubic"),
        "a wrong tile": ("upscale", small, "f.mkv", "--tile", "many"),
        "a missing input": ("upscale", "missing.mp4", "g.mkv", *bicubic),
        "an input that is not a video": ("upscale", "text.mp4", "h.mkv", *bicubic),
        "info of a missing input": ("info", "missing.mp4"),
        "an output that exists": ("upscale", small, "there.mkv", *bicubic),
        "an output that exists, skipped": ("upscale", small, "there.mkv", "--skip-existing", *bicubic),
        "an output in a missing folder": ("upscale", small, "nowhere/new.mkv", *bicubic),
        "an output of unknown kind": ("upscale", small, "i.xyz", *bicubic),
        "an unknown encoder": ("upscale", small, "j.mkv", "--codec", "h999", *bicubic),
        "an unknown model": ("upscale", small, "k.mkv", "--model", "nothing"),
        "a model without weights": ("upscale", small, "l.mkv", "--model", "secnet"),
        "a model for another command": ("upscale", small, "m.mkv", "--model", "zsm-fast"),
        "models show of an unknown one": ("models", "show", "nothing"),
        "models verify": ("models", "verify"),
        "an unknown device": ("upscale", small, "n.mkv", "--device", "abacus"),
        "a CUDA device that does not exist": ("upscale", small, "o.mkv", "--device", "cuda:63"),
        "damage": ("upscale", "damaged.mp4", "p.mkv", *bicubic),
        "damage under --strict": ("upscale", "damaged.mp4", "q.mkv", "--strict", *bicubic),
        "eval of two sizes": ("eval", small, checkout.names["wide"]),
        "a recipe that is missing": ("train", "missing.toml", "--data", ".", "--output", "run"),
    }
    return {name: checkout.command(*arguments).returncode for name, arguments in commands.items()}


def json_keys(checkout: Checkout) -> dict[str, list[str]]:
    """Key sets of every JSON that the command line writes; needs the files that `exit_codes` leaves."""
    folder, small, sample = checkout.folder, checkout.names["small"], checkout.names["sample"]
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    for name in ("small.mkv", "text.mp4", "damaged.mp4"):
        (videos / name).write_bytes((folder / name).read_bytes())
    checkout.command("upscale", "videos", "larger", "--model", "bicubic", "--report", "folder.json")
    checkout.must("upscale", sample, "face.mkv", "--end", "0.2", "--report", "face.json", *FP32)
    checkout.must("slowmo", small, "slow.mkv", "--report", "slow.json", *FP32)
    lines = checkout.command("upscale", small, "lines.mkv", "--model", "bicubic", "--progress", "json").stderr
    texts = {name: (folder / f"{name}.json").read_text() for name in ("folder", "face", "slow")}
    texts |= {
        "progress": json.dumps([json.loads(line) for line in lines.splitlines()]),
        "faces": checkout.must("faces", sample, "--json", "-", "--end", "0.2", *COMPUTE),
        "info": checkout.must("info", sample, "--json"),
        "eval": checkout.must("eval", small, checkout.names["noisy"], "--json"),
        "bench": checkout.must("bench", "--json", "--frames", "5", "--size", "32x32", *FP32),
        "models list": checkout.must("models", "list", "--json"),
        "models show": checkout.must("models", "show", "secnet-fast", "--json"),
        "models show, zsm": checkout.must("models", "show", "zsm-fast", "--json"),
    }
    return {name: sorted(set(keys_of(json.loads(text)))) for name, text in texts.items()}


def model_files(root: Path) -> dict[str, Any]:
    """Keys of cards and recipes, names and shapes of the tensors in weights, by the file's name wherever it lies."""
    table: dict[str, Any] = {}
    for path in sorted((root / "models").rglob("*.toml")):
        kind = "recipe" if path.parent.name == "recipes" else "card"
        table[f"{kind} {path.name}"] = sorted(set(keys_of(tomllib.loads(path.read_text()))))
    for path in sorted((root / "models").rglob("*.safetensors")):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        names = {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
        table[f"tensors {path.name}"] = names
    return table


def exported(checkout: Checkout) -> dict[str, list[str]]:
    """Names of what goes into and comes out of the exported graphs."""
    import onnxruntime

    graphs: dict[str, list[str]] = {}
    for model in ("secnet-fast", "zsm-fast"):
        for line in checkout.must("models", "export", model, f"{model}.onnx").split():
            session = onnxruntime.InferenceSession(str(checkout.folder / line), providers=["CPUExecutionProvider"])
            ends = [(f"in {end.name}", end) for end in session.get_inputs()]
            ends += [(f"out {end.name}", end) for end in session.get_outputs()]
            graphs[Path(line).name] = [f"{name} {end.shape} {end.type}" for name, end in ends]
    return graphs


def interface(checkout: Checkout, only: str) -> dict[str, Any]:
    """Everything that scripts of users rely on, apart from results."""
    table: dict[str, Any] = {}
    lines = [command.split() for command in COMMANDS] + [["models", name] for name in MODEL_COMMANDS]
    for line in lines:
        options = options_of(checkout.must(*line, "--help"))
        assert "--help -h" in options, f"no options found in the help of {line}"
        table[f"options of vidsr {' '.join(line)}".rstrip()] = options
    codes = re.search(r"Exit codes:(.*)", re.sub(r"\s+", " ", checkout.must("--help")))
    assert codes, "--help does not list exit codes"
    table["exit codes in --help"] = re.findall(r"(?:^|·) ?(\d+) ", codes.group(1).strip())
    table["exit codes"] = exit_codes(checkout)
    keys: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("JSON of", lambda: json_keys(checkout)),
        ("file", lambda: model_files(checkout.root)),
        ("exported", lambda: exported(checkout)),
    ]
    for prefix, make in keys:
        table |= {f"{prefix} {name}": value for name, value in make().items()}
    return {name: value for name, value in table.items() if only in name}


# --------------------------------------------------------------------------------------------------- comparison


def differences(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ, one line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys(), key=str):
            yield from differences(before.get(key, "nothing"), now.get(key, "nothing"), f"{place} / {key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(one, other, f"{place} [{number}]")
    elif isinstance(before, list) and isinstance(now, list):
        gone = [item for item in before if item not in now]
        new = [item for item in now if item not in before]
        yield f"{place}: {len(before)} before, {len(now)} now; gone {gone[:8]}, new {new[:8]}"
    elif before != now:
        yield f"{place}: {before!r} before, {now!r} now"


def compare(before: dict[str, Any], now: dict[str, Any], only: str) -> bool:
    """Prints a line for each name and what differs; True if nothing does."""
    same = True
    for name in [name for name in before if only in name] + [name for name in now if name not in before]:
        found = list(differences(before.get(name, "nothing"), now.get(name, "nothing")))
        same = same and not found
        print(f"{'different' if found else 'same':<10}{name}")
        for line in found[:6]:
            print(f"           {line.removeprefix(' / ')}")
        if len(found) > 6:
            print(f"           and {len(found) - 6} more")
    print("everything is the same" if same else "something differs")
    return same


def main() -> int:
    """Runs everything, then saves, compares or prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=HERE, help="whose vidsr is run (default: this one)")
    parser.add_argument("--interface", action="store_true", help="names, codes and keys instead of results")
    parser.add_argument("--only", default="", help="just the runs whose name contains this")
    parser.add_argument("--save", type=Path, help="where to write the JSON (default: stdout, if not compared)")
    parser.add_argument("--compare", type=Path, help="a JSON saved before; exits with 1 if anything differs from it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(options.checkout.resolve(), Path(folder))
        now = (interface if options.interface else all_hashes)(checkout, options.only)
    text = json.dumps(now, indent=1)
    if options.save:
        options.save.write_text(text + "\n")
    elif not options.compare:
        print(text)
    if options.compare:
        return 0 if compare(json.loads(options.compare.read_text()), now, options.only) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
