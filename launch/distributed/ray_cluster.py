"""Join a Ray cluster, or start one on this machine. Ray is imported on first use."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from bellmax import UserError, must
from bellmax.envs import is_host_env
from bellmax.envs.errors import in_words
from bellmax.envs.options import import_extra
from bellmax.launch.config.run_config import RunConfig
from bellmax.launch.config.sentences import show

CONNECT_SECONDS = 30.0  # Ray's own limit for ray://
# Variables of a cluster that the run starts: no usage reports, and actors keep their priority.
_LOCAL_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


class LostClusterError(UserError):
    """The connection to the Ray cluster is lost."""

    exit_code = 1  # of the command line: a failure of the machine, not a mistake of the user


def check(address: str, config: RunConfig) -> None:
    """Check the value of `--actors` before anything is started.

    Args:
      address: `ray` or `ray://HOST:PORT`.
      config: configuration of the run.

    Raises:
      UserError: the address has another form, the extra `ray` is missing, or the environment is
        stepped on the device.
    """
    if address != "ray" and not re.fullmatch(r"ray://[^/\s]+:\d+", address):
        raise UserError(must("--actors", "ray or ray://HOST:PORT", show(address)))
    for module in ("ray", "grpc"):
        import_extra(module, "ray")
    if not is_host_env(config.env):
        hint = "it is stepped on the device, together with the learner"
        raise UserError(must("--actors", f"left out for {config.env.name}", show(address), hint))


@contextlib.contextmanager
def room_for(address: str, actors: int) -> Iterator[str]:
    """Join a Ray cluster and check that it has a CPU for each actor; address as in `connected`.

    Yields:
      A sentence that tells where the actors run.

    Raises:
      UserError: the cluster cannot be reached or has too few CPUs.
    """
    ray: Any = import_extra("ray", "ray")
    with connected(address, actors) as where:
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < actors:
            allowed = f"at most {cpus:g}, the CPUs of the Ray cluster at {where}"
            hint = "each actor takes one; lower host.actors or add nodes"
            raise UserError(must("host.actors", allowed, actors, hint))
        yield f"{actors} actors on {where}, in processes of Ray"


@contextlib.contextmanager
def connected(address: str, cpus: int) -> Iterator[str]:
    """Join a Ray cluster for the block, or use an existing connection.

    Args:
      address: `ray://HOST:PORT` of a cluster; or `ray` for the one that RAY_ADDRESS names. Without
        that variable, a new cluster is started on this machine and shut down at the end.
      cpus: number of CPUs of a new cluster, which may exceed those of the machine.

    Yields:
      The place of the cluster, in words.

    Raises:
      UserError: it cannot be reached within 30 s.
    """
    ray: Any = import_extra("ray", "ray")
    where = address if address != "ray" else os.environ.get("RAY_ADDRESS") or "local"
    with _silent(ray):
        ours = not ray.is_initialized()
        try:
            if ours:
                _join(ray, where, cpus)
            yield "this machine" if where == "local" else where
        finally:
            if ours:
                ray.shutdown()


@contextlib.contextmanager
def reached(then: str) -> Iterator[None]:
    """Raise LostClusterError, one sentence, if the cluster is lost during a call of Ray.

    Args:
      then: the user's next step, for the message.

    Raises:
      LostClusterError: the connection is lost. This is checked before the call too, because Ray
        would otherwise join or start another cluster.
    """
    ray: Any = import_extra("ray", "ray")
    try:
        if not ray.is_initialized():
            raise ConnectionError("it was closed")
        yield
    except ray.exceptions.RayError:  # an exception of a task is also an instance of its own type
        raise
    except ConnectionError as error:
        raise LostClusterError(
            f"the connection to the Ray cluster is lost ({in_words(error)}); {then}"
        ) from error


def _join(ray: Any, where: str, cpus: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if where == "local":
        # In a cluster that this run starts, the user decides how many actors share the cores.
        options |= {"num_cpus": cpus, "include_dashboard": False}
        for name, value in _LOCAL_VARIABLES.items():
            os.environ.setdefault(name, value)
    try:
        if where not in ("local", "auto"):
            _check_server(where)
        with _keep_handlers():
            ray.init(where, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if where == "local":
            raise UserError(f"Ray does not start on this machine: {in_words(error)}") from error
        raise UserError(
            f"the Ray cluster at {where} cannot be reached ({in_words(error)}); the port must be "
            "that of its client server, and RAY_AUTH_TOKEN the cluster's where it has one"
        ) from error


def _check_server(where: str) -> None:
    """Raise OSError if no server answers at an address; Ray itself would wait much longer."""
    host, _, port = where.removeprefix("ray://").rpartition(":")
    try:
        number = int(port)
    except ValueError:
        raise ValueError("RAY_ADDRESS is not HOST:PORT") from None
    socket.create_connection((host.strip("[]"), number), CONNECT_SECONDS / 2).close()
    if where.startswith("ray://"):
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", where]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no Ray answered within {CONNECT_SECONDS:g} s") from None
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["the Ray health check failed"]
        raise ConnectionError(lines[-1][:200])


@contextlib.contextmanager
def _silent(ray: Any) -> Iterator[None]:
    """Suppress Ray's own output; the run reports what matters."""
    logger = logging.getLogger("ray")
    worker = import_extra("ray._private.worker", "ray")
    level, enabled = logger.level, getattr(worker, "_worker_logs_enabled", True)
    logger.setLevel(logging.CRITICAL)
    vars(worker)["_worker_logs_enabled"] = False  # otherwise it prints about dead workers
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\b")
        # A forked process immediately executes a program of Ray.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
            vars(worker)["_worker_logs_enabled"] = enabled


@contextlib.contextmanager
def _keep_handlers() -> Iterator[None]:
    """Keep this process's signal handlers. Ray's would end it at SIGTERM without a checkpoint."""
    # Only the main thread receives signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
