"""vidsr: video super-resolution, slow motion and face restoration with recurrent networks.

    import vidsr

    report = vidsr.upscale("in.mp4", "out.mp4", scale=4)

Importing vidsr loads neither torch nor PyAV; calling one of its functions does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidsr.api import compare, enhance, evaluate, find_faces, list_models, probe, slow_motion, upscale
    from vidsr.comparison.compare import CompareReport
    from vidsr.errors import VidsrError
    from vidsr.evaluation.evaluate import Evaluation
    from vidsr.faces.listing import VideoFaces
    from vidsr.pipeline.batch import BatchReport
    from vidsr.pipeline.run import Progress
    from vidsr.types import RunReport, VideoInfo

__version__ = "0.1.0"
__all__ = [
    "BatchReport",
    "CompareReport",
    "Evaluation",
    "Progress",
    "RunReport",
    "VideoFaces",
    "VideoInfo",
    "VidsrError",
    "__version__",
    "compare",
    "enhance",
    "evaluate",
    "find_faces",
    "list_models",
    "probe",
    "slow_motion",
    "upscale",
]

# The module that each public name is loaded from on first use; those not listed come from vidsr.api.
_MODULES = {
    "BatchReport": "vidsr.pipeline.batch",
    "CompareReport": "vidsr.comparison.compare",
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
    value = getattr(import_module(_MODULES.get(name, "vidsr.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
