"""Videos from pictures that come one by one: .gif by pillow, .mp4 by ffmpeg.

Neither keeps more than a picture in memory.
"""

import contextlib
import itertools
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from bellmax import UserError
from bellmax.envs.host_base import in_words
from bellmax.envs.registry import import_extra
from bellmax.launch.sentences import unknown

SUFFIXES = (".gif", ".mp4")
MAX_FPS = {".gif": 50, ".mp4": 240}  # browsers show a gif with more at a tenth of the speed
_LOOP = b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"  # for ever


def check_video(path: Path, fps: int | None = None) -> None:
    """Says what would keep `write_video` from writing, as far as it can be told before.

    Args:
      path: the file.
      fps: pictures a second; None for a number that any video can have.

    Raises:
      UserError: the suffix is none of .gif and .mp4, the path is a folder, `fps` is out of range,
        or an extra is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise unknown("suffix of a video", path.suffix or path.name, SUFFIXES)
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file for the video")
    most = MAX_FPS[suffix]
    if fps is not None and not 1 <= fps <= most:
        hint = "; a video .mp4 can have more" if suffix == ".gif" and fps > most else ""
        raise UserError(f"--fps must be an integer in [1, {most}] for a {suffix}, got {fps}{hint}")
    if suffix == ".mp4":
        _ffmpeg()


def write_video(path: Path, pictures: Iterable[np.ndarray], fps: int) -> int:
    """Writes a video; replaces a file of that name when it is whole.

    Args:
      path: a file that `check_video` has nothing against; its folder is made if need be.
      pictures: [H, W, 3] uint8 each, all of one size, at least one. Nothing is written before the
        first of them is there.
      fps: pictures a second. A gif has delays of whole hundredths of a second, so it comes near.
        An mp4 repeats the last row or column of pictures whose height or width is odd.

    Returns:
      How many pictures there were.

    Raises:
      UserError: a picture is of another shape, dtype or size, or ffmpeg failed.
    """
    checked = _check(pictures)
    checked = itertools.chain([next(checked)], checked)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    try:
        count = write(unfinished, checked, fps)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _check(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    size = None
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f"pictures must be [H, W, 3] uint8, but one is {list(picture.shape)} "
                f"{picture.dtype}"
            )
        size = size or picture.shape
        if picture.shape != size:
            raise UserError(
                f"pictures must all be of one size, {list(size)}, but one is {list(picture.shape)}"
            )
        yield picture


def _write_gif(path: Path, pictures: Iterator[np.ndarray], fps: int) -> int:
    """Picture by picture, where pillow's own writer keeps all and joins those that are equal."""
    from PIL import GifImagePlugin

    count, delay = 0, 10 * round(100 / fps)  # milliseconds
    with path.open("wb") as file:
        for picture in pictures:
            if not count:
                height, width, _ = picture.shape
                file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0) + _LOOP)
            image = _with_palette(picture)
            file.writelines(GifImagePlugin.getdata(image, duration=delay, include_color_table=True))
            count += 1
        file.write(b";")
    return count


def _with_palette(picture: np.ndarray) -> Any:
    """A pillow image of at most 256 colours: those of the picture, if it has no more."""
    from PIL import Image

    image = Image.fromarray(picture)
    if image.getcolors(256) is None:
        return image.quantize(256)
    codes = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, index = np.unique(codes, return_inverse=True)
    palette = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=-1)
    indexed = Image.fromarray(index.reshape(codes.shape).astype(np.uint8))
    indexed.putpalette(palette.astype(np.uint8).tobytes())
    return indexed


def _write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: int) -> int:
    first = next(pictures)
    height, width = (size + size % 2 for size in first.shape[:2])
    video = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    quality = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart"]
    command = [_ffmpeg(), "-y", "-v", "error", *video, "-i", "-", *quality, str(path.absolute())]
    count = 0
    with tempfile.TemporaryFile() as said:
        with _started(command, said) as process:
            for picture in itertools.chain([first], pictures):
                odd = [(0, size % 2) for size in picture.shape[:2]]
                try:
                    process.stdin.write(np.pad(picture, [*odd, (0, 0)], mode="edge").tobytes())
                except BrokenPipeError:  # it says why
                    break
                count += 1
        if process.returncode:
            said.seek(0)
            words = " ".join(said.read().decode(errors="replace").split())
            raise UserError(f"ffmpeg cannot write {path}: {words or process.returncode}")
    return count


@contextlib.contextmanager
def _started(command: list[str], said: IO[bytes]) -> Iterator[Any]:
    """A process that has ended when this is left; without a fork, which threads of jax forbid."""
    process: Any = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,  # Ctrl-C is for this process
    )
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def _ffmpeg() -> str:
    """The program, which the package brings. Its own function to write would fork."""
    try:
        return import_extra("imageio_ffmpeg", "video").get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"there is no ffmpeg here ({in_words(error)})") from error
