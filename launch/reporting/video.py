"""Write a stream of pictures as a video, .gif or .mp4, with ffmpeg.

Only one picture is in memory at a time. imageio itself is not used: its ffmpeg plugin refuses
.gif, and its other writers of .gif keep every picture until the end.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.errors import in_words
from bellmax.envs.options import import_extra, unknown

MAX_FPS = {".gif": 50, ".mp4": 240}  # browsers slow faster gifs down to a tenth
SUFFIXES = tuple(MAX_FPS)
# Each picture of a gif gets its own palette of 256 colours.
_PALETTES = (
    "split[a][b];[a]palettegen=stats_mode=single:reserve_transparent=0[p];"
    "[b][p]paletteuse=new=1:dither=none"
)
_OPTIONS: dict[str, dict[str, Any]] = {
    ".gif": {
        "codec": "gif",
        "pix_fmt_out": "pal8",
        "output_params": ["-filter_complex", _PALETTES],
    },
    ".mp4": {
        "codec": "libx264",
        "pix_fmt_out": "yuv420p",
        "output_params": ["-crf", "20", "-movflags", "+faststart"],
    },
}


def check_video(path: Path, fps: int | None = None) -> None:
    """Check the arguments of `write_video`, to be called before pictures are drawn.

    Args:
      path: the file.
      fps: pictures per second; None for a rate that every video supports.

    Raises:
      UserError: the suffix is not .gif or .mp4, the path is a folder, `fps` is out of range,
        or the extra `video` is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("suffix of a video", path.suffix or path.name, SUFFIXES)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file for the video")
    most = MAX_FPS[suffix]
    if fps is not None and not 1 <= fps <= most:
        hint = "a video .mp4 can have more" if suffix == ".gif" and fps > most else ""
        raise UserError(must("--fps", f"an integer in [1, {most}] for a {suffix}", fps, hint))
    try:
        import_extra("imageio_ffmpeg", "video").get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"there is no ffmpeg here ({in_words(error)})") from error


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: int) -> int:
    """Write a video; a file of that name is replaced when the new one is complete.

    Args:
      path: a file that `check_video` accepts; its folder is created if it is missing.
      pictures: [H, W, 3] uint8 each, all of the same size, at least one. Nothing is written before
        the first picture.
      fps: pictures per second. A gif has delays of whole hundredths of a second, which are right on
        average. An mp4 repeats the last row or column of pictures whose height or width is odd.

    Returns:
      The number of pictures.

    Raises:
      UserError: a picture is of another shape, dtype or size, or ffmpeg failed.
    """
    checked = _check(pictures)
    checked = itertools.chain([next(checked)], checked)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    try:
        count = _write(unfinished, checked, fps)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _check(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    size = None
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            got = f"{list(picture.shape)} {picture.dtype}"
            raise UserError(must("pictures", "[H, W, 3] uint8", got))
        size = size or picture.shape
        if picture.shape != size:
            allowed = f"all of one size, {list(size)}"
            raise UserError(must("pictures", allowed, list(picture.shape)))
        yield picture


def _write(path: Path, pictures: Iterator[np.ndarray], fps: int) -> int:
    """Write a file and read it back to check it, because ffmpeg's exit status is hidden."""
    # With its own protection from Ctrl-C ffmpeg is started by a fork, which threads of jax forbid.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    ffmpeg = import_extra("imageio_ffmpeg", "video")
    suffix, count = path.suffix.lower(), 0
    first = next(pictures)
    odd = [(0, size % 2 if suffix == ".mp4" else 0) for size in first.shape[:2]] + [(0, 0)]
    height, width, _ = np.pad(first, odd).shape
    options = {"fps": fps, "quality": None, "macro_block_size": 1, "ffmpeg_log_level": "error"}
    writer = ffmpeg.write_frames(str(path), (width, height), **options, **_OPTIONS[suffix])
    try:
        with contextlib.closing(writer):
            writer.send(None)
            for picture in itertools.chain([first], pictures):
                writer.send(np.pad(picture, odd, mode="edge"))
                count += 1
        written, _ = ffmpeg.count_frames_and_secs(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"ffmpeg cannot write {path}; its message is above") from error
    if written != count:
        raise UserError(f"ffmpeg wrote {written} of {count} pictures to {path}")
    return count
