"""The frames of videos as image files, so that all else has to know of images only.

Decoding is PyAV's, the bindings to FFmpeg: 36 MB to install, beside 61 MB for OpenCV's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_ad.data.images import PathLike
from cflow_ad.data.listing import scan
from cflow_ad.errors import DataError

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
"""The endings, in lower case, of the files that count as videos."""


def extract_frames(
    videos: PathLike,
    out: PathLike,
    *,
    every: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write frames to ``OUT/VIDEO/000000.png``, each named after its place in its video.

    Args:
        videos: A video file, or a folder of them.
        out: Made if it is not there; frames that are there already are written anew.
        every: Write one frame in so many, from the first, at least 1.
        progress: Called with the number of frames read and the number that the files say they
            have, which may be somewhat wrong.

    Returns:
        The number of frames written.

    Raises:
        DataError: There is no video, or one cannot be decoded.
        ModuleNotFoundError: PyAV is not installed.
    """
    import av

    paths = _find(Path(videos))
    total = 0
    for path in paths:
        with _opened(path) as video:
            total += video.streams.video[0].frames
    read = written = 0
    for path in paths:
        folder = Path(out) / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        with _opened(path) as video:
            try:
                for index, frame in enumerate(video.decode(video=0)):
                    read += 1
                    if index % every == 0:
                        frame.to_image().save(folder / f"{index:06d}.png")
                        written += 1
                    progress(read, max(total, read))
            except av.FFmpegError as error:
                raise DataError(
                    f"{path}: the video is damaged or cut short ({error.strerror}); copy it again "
                    "from its source"
                ) from error
    return written


def _find(videos: Path) -> list[Path]:
    if videos.is_file():
        return [videos]
    there = [file for file in scan(videos)[1] if file.suffix.lower() in VIDEO_SUFFIXES]
    if not there:
        looked_for = " ".join(sorted(VIDEO_SUFFIXES))
        raise DataError(f"{videos}: no videos there (looked for {looked_for})")
    if len({path.stem for path in there}) < len(there):
        raise DataError(f"{videos}: two videos differ in their ending only; rename one")
    return there


def _opened(path: Path) -> av.container.InputContainer:
    import av

    try:
        video = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{path}: this is no video that can be decoded ({error.strerror})"
        ) from error
    if not video.streams.video:
        video.close()
        raise DataError(f"{path}: there is no picture in this file")
    return video
