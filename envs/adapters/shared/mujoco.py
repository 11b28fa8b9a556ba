"""What brax and MuJoCo Playground print and warn of is hidden."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

from bellmax.envs.adapters.shared.dtypes import default_promotion


@contextlib.contextmanager
def theirs() -> Iterator[None]:
    """Promote ranks and dtypes as jax does by default, and hide what is printed and warned of."""
    with (
        default_promotion(),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def no_log() -> Iterator[None]:
    """MuJoCo writes warnings about models to stderr and to a file in the current folder."""
    mujoco: Any = importlib.import_module("mujoco")  # its stubs leave these functions out
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
