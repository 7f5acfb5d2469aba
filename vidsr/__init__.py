"""vidsr: video super-resolution with recurrent networks, and a particular care for faces.

    import vidsr

    report = vidsr.upscale("in.mp4", "out.mp4", scale=4)

Importing it loads neither torch nor PyAV; the first call of a function does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidsr.api import enhance, evaluate, find_faces, list_models, probe, slow_motion, upscale
    from vidsr.errors import VidsrError
    from vidsr.evaluation.evaluate import Evaluation
    from vidsr.faces.listing import VideoFaces
    from vidsr.pipeline.batch import BatchReport
    from vidsr.pipeline.run import Progress
    from vidsr.types import RunReport, VideoInfo

__version__ = "0.1.0"
__all__ = [
    "BatchReport",
    "Evaluation",
    "Progress",
    "RunReport",
    "VideoFaces",
    "VideoInfo",
    "VidsrError",
    "__version__",
    "enhance",
    "evaluate",
    "find_faces",
    "list_models",
    "probe",
    "slow_motion",
    "upscale",
]

# Where each public name comes from when it is first used.
_HOMES = {
    "BatchReport": "vidsr.pipeline.batch",
    "Evaluation": "vidsr.evaluation.evaluate",
    "Progress": "vidsr.pipeline.run",
    "RunReport": "vidsr.types",
    "VideoFaces": "vidsr.faces.listing",
    "VideoInfo": "vidsr.types",
    "VidsrError": "vidsr.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vidsr' has no attribute '{name}'")
    value = getattr(import_module(_HOMES.get(name, "vidsr.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
