"""Which kinds of files are films, by their extension. Knows nothing of their content."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)

# FFmpeg's muxer for each extension that is written. Its muxer for .m4v knows neither HEVC nor AV1; the file type is the
# same as .mp4.
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
