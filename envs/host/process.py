"""A host environment in its own process, which may hang or crash without harm to the caller."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numpy as np

from bellmax import UserError, must
from bellmax.envs.errors import described, in_words
from bellmax.envs.host.base import HostEnvironment, HostTimeStep

if TYPE_CHECKING:
    from bellmax.envs.base import EnvSpec

START_SECONDS = 120.0  # to start Python, make the task and reset it once
_CLOSE_SECONDS = 5.0
_STARTING = threading.Lock()


class ProcessEnvironment:
    """A HostEnvironment whose task runs in a child process, spawned and never forked.

    `ask` sends a call and `answer` waits for its result, so that several processes work
    concurrently. `reset`, `step` and `render` do both. The child ignores Ctrl-C and SIGTERM, uses
    no accelerator, and ends with its parent. As with every use of `spawn`, a script must create
    these environments under `if __name__ == "__main__":`.

    Args:
      make_one: makes the task, in the child. It must be picklable: a function or class of a
        module, or a functools.partial of one.
      timeout: seconds that an answer may take, above 0.
      start_timeout: seconds until the answer to the first call, including the time to make the
        task; `timeout` if that is longer. None: START_SECONDS.

    Raises:
      UserError: make_one cannot be pickled, or (any call) the task raised a UserError.
      TimeoutError: (any call) the answer took too long; the child is killed.
      ChildProcessError: (any call) the task raised another exception, or the child died.
    """

    def __init__(
        self,
        make_one: Callable[[], HostEnvironment],
        timeout: float,
        *,
        start_timeout: float | None = None,
    ):
        _check_picklable(make_one)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_one), daemon=True)
        with _STARTING, _variables(JAX_PLATFORMS="cpu"):  # before anything can import jax there
            self._process.start()
        theirs.close()
        # At exit multiprocessing sends SIGTERM to children and waits; these ignore SIGTERM, so
        # kill them.
        util.Finalize(self, _end, (self._process,), exitpriority=0)
        self._spec: EnvSpec | None = None
        start = START_SECONDS if start_timeout is None else start_timeout
        self._timeout, self._allowance = timeout, max(timeout, start)
        self._deadline = time.monotonic() + self._allowance
        self._waiting = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the child."""
        return self._process.pid

    @property
    def spec(self) -> "EnvSpec":
        spec = self._spec
        if spec is None:
            spec = self._spec = self._receive()
        return spec

    def reset(self, seed: int | None) -> HostTimeStep:
        self.ask("reset", seed)
        return self.answer()

    def step(self, action: np.ndarray) -> HostTimeStep:
        self.ask("step", action)
        return self.answer()

    def render(self) -> np.ndarray:
        self.ask("render")
        return self.answer()

    def ask(self, call: str, *arguments: Any) -> None:
        """Sends `call` to the task. An earlier result that was not fetched is discarded."""
        if self._waiting:
            with contextlib.suppress(Exception):
                self.answer()
        self._waiting = True
        self._deadline = max(self._deadline, time.monotonic() + self._timeout)
        with contextlib.suppress(OSError):  # `answer` reports that the child is gone
            self._pipe.send((call, arguments))

    def answer(self) -> Any:
        """The result of the call, within the timeout after `ask`."""
        self._waiting = False
        _ = self.spec  # the child sends it first
        value = self._receive()
        self._allowance, self._deadline = self._timeout, 0.0
        return value

    def begin_close(self) -> None:
        """Tells the child to close the task and exit."""
        with contextlib.suppress(OSError):
            self._pipe.send(("close", ()))

    def close(self) -> None:
        """Closes the task and reaps the child."""
        if not self._closed:
            self.begin_close()
            self._process.join(_CLOSE_SECONDS)
            self._kill()

    def _receive(self) -> Any:
        if self._closed:
            raise ChildProcessError("its process is closed")
        try:
            if not self._pipe.poll(max(0.0, self._deadline - time.monotonic())):
                self._kill()
                raise TimeoutError(f"no answer within {self._allowance:g} s")
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join(_CLOSE_SECONDS)
            code = self._process.exitcode
            self._kill()
            raise ChildProcessError(f"its process died with exit code {code}") from error
        if kind == "user":
            raise UserError(value)
        if kind == "raised":
            raise ChildProcessError(value)
        return value

    def _kill(self) -> None:
        if not self._closed:
            self._closed = True
            self._process.kill()
            self._process.join()
            self._process.close()
            self._pipe.close()


def _serve(pipe: Connection, make_one: Callable[[], HostEnvironment]) -> None:
    """Main function of the child: makes the task, sends its spec, then answers calls."""
    # A new session: a signal to the whole process group reaches only the parent, which still needs
    # its tasks to shut down.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler and not SIG_IGN, which programs started by the task would inherit.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    made: list[HostEnvironment] = []

    def make_spec():
        made.append(make_one())
        return made[0].spec

    pipe.send(_attempt(make_spec))
    call = ""
    while made and call != "close":
        try:
            call, arguments = pipe.recv()
        except (EOFError, ConnectionError):
            return  # the parent is gone
        answer = _attempt(getattr(made[0], call), *arguments)
        with contextlib.suppress(OSError):
            pipe.send(answer)


def _end(process: BaseProcess) -> None:
    with contextlib.suppress(ValueError):  # already closed
        process.kill()


def _end_with_parent() -> None:
    """Ends the child shortly after its parent, even if the task hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        time.sleep(_CLOSE_SECONDS)  # a task that does not hang exits before this
        os._exit(1)


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """How the call ended ("returned", "user" or "raised"), and its result or error message."""
    try:
        return "returned", function(*arguments)
    except UserError as error:
        return "user", str(error)
    except (Exception, SystemExit) as error:
        return "raised", described(error)


def _check_picklable(make_one: Callable[[], HostEnvironment]) -> None:
    try:
        pickle.dumps(make_one)
    except Exception as error:
        raise UserError(
            must(
                "the environment's factory",
                "picklable if there is a timeout",
                in_words(error),
                "use a function of a module",
            )
        ) from error


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Sets environment variables temporarily."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
