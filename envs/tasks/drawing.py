"""Pictures of bellmax's own tasks, drawn with NumPy: [H, W, 3] uint8, row 0 at the top."""

import math
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

SIDE = 256  # length in pixels of a board's longer side, rounded down to whole cells
_LINES_FROM = 8  # smallest cell size in pixels at which grid lines are drawn
# Okabe and Ito's colours, distinguishable with any common colour blindness, and a few more.
PLANES: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
    (255, 255, 255),
    (145, 90, 60),
    (160, 230, 150),
)
_BLUE, _ORANGE, _GREEN, _YELLOW, _, _RED, _DEEP, _WHITE, *_ = PLANES
_DARK: Colour = (24, 26, 34)
_LINE: Colour = (52, 56, 68)
_GREY: Colour = (120, 124, 134)


def board(cells: np.ndarray, *, side: int = SIDE) -> np.ndarray:
    """Draw a board from the colours of its cells, [H, W, 3] uint8; each cell becomes a square."""
    scale = max(1, side // max(cells.shape[:2]))
    picture = cells.repeat(scale, axis=0).repeat(scale, axis=1)
    if scale >= _LINES_FROM:
        picture[::scale] = picture[:, ::scale] = _LINE
    return picture


def planes(values: np.ndarray) -> np.ndarray:
    """Draw planes [H, W, C] in [0, 1], each in its own colour; earlier planes cover later ones."""
    cells = np.empty((*values.shape[:2], 3))
    cells[:] = _DARK
    for i in reversed(range(values.shape[2])):
        share = values[..., i, None]
        cells = (1 - share) * cells + share * np.array(PLANES[i % len(PLANES)])
    return board(cells.round().astype(np.uint8))


def catch(rows: int, columns: int, ball: tuple[int, int], paddle: int) -> np.ndarray:
    """Catch: ball (row, column) in orange, the paddle's column in blue, green for a catch."""
    cells = _blank(rows, columns)
    cells[rows - 1, paddle] = _BLUE
    cells[ball] = _GREEN if ball == (rows - 1, paddle) else _ORANGE
    return board(cells)


def deep_sea(size: int, row: int, column: int) -> np.ndarray:
    """DeepSea: water, the ground as one extra row, the treasure in its corner, and the diver."""
    cells = _blank(size + 1, size)
    for depth in range(size):  # darker with depth; cells right of the diagonal are unreachable
        light = 1 - 0.6 * depth / size
        cells[depth, : depth + 1] = (np.array(_DEEP) * light).astype(np.uint8)
    cells[size] = (145, 90, 60)
    cells[size - 1, size - 1] = _GREEN
    cells[row, column] = _ORANGE
    return board(cells)


def rooms_and_screen(
    walls: np.ndarray, agent: tuple[int, int], goal: tuple[int, int], screen: np.ndarray
) -> np.ndarray:
    """NoisyGrid: walls [S, S] bool, agent and goal (row, column), TV [S, S, C] at the right."""
    size = len(walls)
    cells = _blank(size, 2 * size + 1)
    cells[:, :size][walls] = _GREY
    cells[goal] = _GREEN
    cells[agent] = _ORANGE
    cells[:, size] = _LINE
    cells[:, size + 1 :] = screen[..., :3] if screen.shape[2] >= 3 else screen[..., :1]
    return board(cells, side=2 * SIDE)


def chain(num_states: int, state: int, ends: np.ndarray) -> np.ndarray:
    """A finite MDP: its states in a row, terminal states in red, the current state in yellow."""
    cells = _blank(1, num_states)
    cells[0] = _DEEP
    cells[0, ends] = _RED
    cells[0, state] = _YELLOW
    return board(cells)


def cart_pole(position: float, angle: float, *, track: float, pole: float) -> np.ndarray:
    """CartPole; marks show the ends of the track, where the episode terminates.

    Args:
      position: of the cart, in m to the right of the middle.
      angle: of the pole, in radians to the right of upright.
      track: distance from the middle to either end, in m.
      pole: length of the pole, in m.
    """
    height, width = 192, 384
    scale, ground = width / (2 * track + 0.8), 148.0  # pixels a metre; row of the axle
    picture = _blank(height, width)
    axle = width / 2 + scale * position, ground
    tip = axle[0] + scale * pole * math.sin(angle), ground - scale * pole * math.cos(angle)
    wheels = ground + 14
    _stroke(picture, (0, wheels), (width, wheels), 1.0, _GREY)
    for end in (-track, track):
        post = width / 2 + scale * end
        _stroke(picture, (post, wheels - 10), (post, wheels), 2.0, _RED)
    _stroke(picture, (axle[0] - 18, ground + 2), (axle[0] + 18, ground + 2), 10.0, _BLUE)
    _stroke(picture, axle, tip, 4.0, _ORANGE)
    _stroke(picture, axle, axle, 3.0, _WHITE)
    return picture


def pendulum(angle: float) -> np.ndarray:
    """Pendulum: a rod fixed in the middle, at an angle in radians to the left of upright."""
    picture = _blank(SIDE, SIDE)
    middle, length = SIDE / 2, 0.36 * SIDE
    tip = middle - length * math.sin(angle), middle - length * math.cos(angle)
    _stroke(picture, (middle, 6), (middle, 12), 2.0, _GREY)  # marks upright
    _stroke(picture, (middle, middle), tip, 10.0, _ORANGE)
    _stroke(picture, (middle, middle), (middle, middle), 5.0, _WHITE)
    return picture


def _blank(height: int, width: int) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = _DARK
    return picture


def _stroke(picture: np.ndarray, start: Point, end: Point, radius: float, colour: Colour) -> None:
    """Colours the pixels within `radius` of the line between two points (x, y), in pixels."""
    height, width = picture.shape[:2]
    x, y = np.arange(width)[None, :] + 0.5 - start[0], np.arange(height)[:, None] + 0.5 - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    picture[(x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius**2] = colour
