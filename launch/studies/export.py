"""Export of a run's greedy policy as one file that runs without bellmax: StableHLO or ONNX."""

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.agents import Agent
from bellmax.envs.errors import in_a_sentence, without_warnings
from bellmax.envs.options import check_choice, import_extra
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.runners.evaluation import make_greedy, split_action
from bellmax.launch.studies.evaluate import check_seed, restore_policy_inputs
from bellmax.launch.training.experiment import build

SUFFIXES = {"stablehlo": ".stablehlo", "onnx": ".onnx"}  # by format
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # that a StableHLO file runs on
CHECKED = 1_000  # random observations on which a file is compared with the policy
_MEMORY = "memory/"  # how the names of inputs begin that hold memory
_NAME = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
Arrays = dict[str, Any]
# act(observation [N, ...], memory by name, is_first [N], key [2]) -> (action, memory by name)
PlainAct = Callable[..., tuple[Any, Arrays]]


class PlainPolicy(NamedTuple):
    """A policy whose arguments are arrays alone, without types of bellmax.

    act: see `PlainAct`. The memory before an episode's first observation may hold any numbers,
        such as zeros: `is_first` resets it.
    observation: spec of one observation.
    inputs: an array's shape without N and its dtype, for `observation`, each `memory/NAME`,
        `is_first` and, if the policy draws random numbers, `key`, which has no N.
    """

    act: PlainAct
    observation: specs.Array
    inputs: dict[str, jax.ShapeDtypeStruct]

    @property
    def draws(self) -> bool:
        """Whether `act` needs a key."""
        return "key" in self.inputs

    def arguments(self, batch: Any, fill: Callable[[str, tuple, Any], Any]) -> tuple[Any, ...]:
        """Return arguments of `act`: fill(name, shape, dtype) for N = `batch`."""
        each = {
            name: fill(name, x.shape if name == "key" else (batch, *x.shape), x.dtype)
            for name, x in self.inputs.items()
        }
        memory = {
            name.removeprefix(_MEMORY): value
            for name, value in each.items()
            if name.startswith(_MEMORY)
        }
        key = (each["key"],) if self.draws else ()
        return each["observation"], memory, each["is_first"], *key


def export_run(
    run: Path,
    out: Path | None = None,
    *,
    format: str = "stablehlo",
    checkpoint: str | int = "latest",
    seed: int | None = None,
    trust: bool = False,
    say: Callable[[str], object] = lambda sentence: None,
) -> Path:
    """Write the greedy policy of one learner to a file, and compare the file with the policy.

    Args:
      run: the run's folder.
      out: the file; RUN/policy.stablehlo or RUN/policy.onnx by default. It is replaced when the
        new one is complete.
      format: "stablehlo", for `jax.export.deserialize`, or "onnx", with the extra `onnx`.
      checkpoint: "latest", "best" or a step.
      seed: of the learner; None is the run's first.
      trust: whether the run's configuration may name code of the user's own.
      say: takes lines for the user: the inputs of the file, and how many actions agree.

    Returns:
      The file written.

    Raises:
      UserError: the run has no such seed or checkpoint, the extra is missing, the policy has
        operations that the format lacks, or `is_first` does not reset its memory.
    """
    check_choice("format", format, SUFFIXES)
    if format == "onnx":
        for module in ("jax2onnx", "onnxruntime"):
            with _without_messages():
                import_extra(module, "onnx")
    out = run / f"policy{SUFFIXES[format]}" if out is None else out
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file for the policy")
    config = load_to_play(run, trust=trust)
    seed = config.seed if seed is None else seed
    check_seed(run, config, seed)
    with contextlib.closing(build(config, episodes=1)) as experiment:
        step, every, warning = restore_policy_inputs(run, experiment, checkpoint)
        if warning:
            say(warning)
        acting = jax.tree.map(lambda x: x[experiment.seeds.index(seed)], every)
        spaces = experiment.observation, experiment.action
        policy = make_plain(experiment.agent, acting, *spaces)
    make, read = _FORMATS[format]
    data = make(policy)
    agreement = compare(policy, read(data))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, data)
    for name, x in policy.inputs.items():
        shape = x.shape if name == "key" else ("N", *x.shape)
        say(f"{name}: {x.dtype} [{', '.join(map(str, shape))}]")
    say(agreement)
    say(f"{out}: policy of seed {seed} at step {step:,}, {len(data) / 1e6:.1f} MB")
    return out


def make_plain(
    agent: Agent,
    acting: PolicyInputs,
    observation: specs.Array,
    action: specs.Array | None = None,
) -> PlainPolicy:
    """Return the greedy policy of an agent as a function of arrays.

    Args:
      agent: the agent.
      acting: its parameters, and the statistics that normalise observations.
      observation: spec of one observation.
      action: spec of one action; None for actions that are the task's own.

    Raises:
      UserError: `is_first` does not reset the memory.
    """
    greedy = make_greedy(agent)
    start = jax.tree_util.tree_leaves_with_path(agent.initial_memory(1))
    structure = jax.tree.structure(agent.initial_memory(1))
    seen = jnp.zeros((1, *observation.shape), observation.dtype)
    key = jax.random.key(0)

    def next_memory(leaves: list[Any]) -> list[Any]:
        memory = jax.tree.unflatten(structure, leaves)
        first = jnp.zeros(1, bool)
        return jax.tree.leaves(greedy(acting, seen, memory, first, key, 0)[1])

    # What acting returns as it was, such as an estimate for training, is constant.
    jaxpr = jax.make_jaxpr(next_memory)([leaf for _, leaf in start]).jaxpr
    same = [a is b for a, b in zip(jaxpr.invars, jaxpr.outvars, strict=True)]
    paths = [path for path, _ in start]
    names = [None if fixed else _NAME(path) for fixed, path in zip(same, paths, strict=True)]

    def act(seen: Any, memory: Arrays, is_first: Any, key: Any = None) -> tuple[Any, Arrays]:
        initial = jax.tree.leaves(agent.initial_memory(is_first.shape[0]))
        leaves = [memory[n] if n else leaf for n, leaf in zip(names, initial, strict=True)]
        key = jax.random.key(0) if key is None else jax.random.wrap_key_data(key)
        inputs = seen, jax.tree.unflatten(structure, leaves), is_first, key, 0
        chosen, after = greedy(acting, *inputs)
        chosen = chosen if action is None else split_action(action, chosen)
        kept = zip(names, jax.tree.leaves(after), strict=True)
        return chosen, {name: leaf for name, leaf in kept if name}

    one = jax.ShapeDtypeStruct
    inputs = {"observation": one(observation.shape, observation.dtype)}
    kept = zip(names, start, strict=True)
    inputs |= {f"{_MEMORY}{n}": one(x.shape[1:], x.dtype) for n, (_, x) in kept if n}
    inputs |= {"is_first": one((), bool), "key": one((2,), jnp.uint32)}
    policy = PlainPolicy(act, observation, inputs)
    if not _uses_key(policy):
        del inputs["key"]
    _check_reset(policy, {n: x for n, (_, x) in zip(names, start, strict=True) if n})
    return policy


def _uses_key(policy: PlainPolicy) -> bool:
    traced = policy.arguments(1, lambda name, shape, dtype: jax.ShapeDtypeStruct(shape, dtype))
    exported = jax.export.export(jax.jit(policy.act))(*traced)
    return len(exported.in_avals) - 1 in exported.module_kept_var_idx


def _check_reset(policy: PlainPolicy, start: Arrays) -> None:
    """Raise UserError if `is_first` does not replace any memory by the initial one."""
    seen, memory, _, *key = random_arguments(policy, 1)
    first = np.ones(1, bool)
    for other in (memory, jax.tree.map(np.zeros_like, memory)):
        answers = [policy.act(seen, m, first, *key) for m in (start, other)]
        if not jax.tree.all(jax.tree.map(np.array_equal, *answers)):
            allowed = "an agent whose memory is reset by is_first"
            raise UserError(must("agent.name", allowed, "one that keeps it"))


def random_arguments(policy: PlainPolicy, batch: int) -> tuple[Any, ...]:
    """Return arguments of `act` for N = batch: observations within the bounds of their spec."""
    generator, bounds = np.random.default_rng(0), policy.observation

    def fill(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if np.issubdtype(dtype, np.bool_):
            return generator.random(shape) < 0.5
        if np.issubdtype(dtype, np.floating):
            values = generator.normal(size=shape)
        else:
            values = generator.integers(0, 256, shape)
        if name == "observation" and isinstance(bounds, specs.BoundedArray):
            values = np.clip(values, bounds.minimum, bounds.maximum)
        return values.astype(dtype)

    return policy.arguments(batch, fill)


def compare(policy: PlainPolicy, other: PlainAct) -> str:
    """Return a sentence on how many actions of two policies agree on random observations.

    Each acts twice: at the start of episodes, and then with the memory of the first action, except
    where `is_first` resets it.
    """
    seen, memory, is_first, *key = random_arguments(policy, CHECKED)
    act, pairs = jax.jit(policy.act), []
    for first in (np.ones(CHECKED, bool), is_first):
        action, after = act(seen, memory, first, *key)
        pairs.append((np.asarray(action), np.asarray(other(seen, memory, first, *key)[0])))
        memory = jax.device_get(after)
    equal = np.logical_and.reduce([(a == b).reshape(CHECKED, -1).all(axis=1) for a, b in pairs])
    words = f"actions for random observations: {equal.sum():,} of {CHECKED:,} equal the policy's"
    if equal.all() or not np.issubdtype(pairs[0][0].dtype, np.floating):
        return words
    return f"{words}, the others up to {max(np.abs(a - b).max() for a, b in pairs):.1e}"


def _make_stablehlo(policy: PlainPolicy) -> bytes:
    (batch,) = jax.export.symbolic_shape("n")
    symbolic = policy.arguments(batch, lambda name, *form: jax.ShapeDtypeStruct(*form))
    return bytes(jax.export.export(jax.jit(policy.act), platforms=PLATFORMS)(*symbolic).serialize())


def _read_stablehlo(data: bytes) -> PlainAct:
    exported: Any = jax.export.deserialize(bytearray(data))
    return exported.call


def _make_onnx(policy: PlainPolicy) -> bytes:
    """Return an ONNX model: outputs are `action` and, for each `memory/NAME`, `next/NAME`."""
    jax2onnx: Any = import_extra("jax2onnx", "onnx")
    if policy.draws:
        allowed = "stablehlo for a policy that draws random numbers"
        raise UserError(must("--format", allowed, "onnx"))
    memory = [name.removeprefix(_MEMORY) for name in policy.inputs if name.startswith(_MEMORY)]

    def flat(observation: Any, *others: Any) -> tuple[Any, ...]:
        *before, is_first = others
        action, after = policy.act(observation, dict(zip(memory, before, strict=True)), is_first)
        # A value has one name in ONNX, and a memory may hold the action.
        kept = [after[name] for name in memory]
        return action, *(x + jnp.zeros_like(x) if x is action else x for x in kept)

    shapes: Any = {name: ("n", *x.shape) for name, x in policy.inputs.items()}
    failed = "the policy cannot be written as ONNX, other than as StableHLO"
    with in_a_sentence(failed), _without_messages():
        model = jax2onnx.to_onnx(
            flat,
            [jax.ShapeDtypeStruct(shapes[name], x.dtype) for name, x in policy.inputs.items()],
            model_name="policy",
            input_names=[*policy.inputs],
            output_names=["action", *(f"next/{name}" for name in memory)],
        )
    return model.SerializeToString()


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Suppress what jax2onnx tells about parts of it that this jax lacks and no policy needs."""
    logger = logging.getLogger("jax2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        # Its convolutions broadcast, and it prints.
        with (
            without_warnings(),
            jax.numpy_rank_promotion("allow"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        logger.setLevel(before)


def _read_onnx(data: bytes) -> PlainAct:
    runtime: Any = import_extra("onnxruntime", "onnx")
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def act(observation: Any, memory: Arrays, is_first: Any) -> tuple[Any, Arrays]:
        given = {"observation": observation, "is_first": is_first}
        given |= {f"{_MEMORY}{name}": value for name, value in memory.items()}
        given = {one.name: np.asarray(given[one.name]) for one in session.get_inputs()}
        names = [one.name for one in session.get_outputs()]
        answers = dict(zip(names, session.run(names, given), strict=True))
        return answers.pop("action"), {n.removeprefix("next/"): x for n, x in answers.items()}

    return act


_FORMATS = {"stablehlo": (_make_stablehlo, _read_stablehlo), "onnx": (_make_onnx, _read_onnx)}
