"""Saved policies with recurrent memory play as in `bellmax evaluate`."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import EnvSpec, TimeStep, vectorise
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.runners.random import stream
from bellmax.launch.studies.evaluate import restore
from bellmax.launch.training.experiment import build
from bellmax.launch.training.policy import load_policy, save_policies

CUES, LENGTH, ACTIONS, EPISODES = 4, 4, 3, 12
# Returns tell the actions apart, for each cue; after cue c action c mod 3 is best.
PAYS = np.random.default_rng(0).uniform(0.0, 0.3, (CUES, LENGTH, ACTIONS)).astype(np.float32)
PAYS[np.arange(CUES), :, np.arange(CUES) % ACTIONS] += 1.0


class RecallState(NamedTuple):
    cue: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Recall:
    """The first observation shows one of four cues, which determines the reward."""

    spec = EnvSpec("test/Recall", specs.Array((CUES,), np.float32), specs.DiscreteArray(ACTIONS))

    def observe(self, state):
        return 3.0 * jax.nn.one_hot(state.cue, CUES) * (state.time == 0) + 1.0

    def reset(self, key):
        state = RecallState(jax.random.randint(key, (), 0, CUES), jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return state, TimeStep(self.observe(state), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        reward = jnp.asarray(PAYS)[state.cue, state.time, action]
        state = state._replace(time=state.time + 1)
        over = state.time == LENGTH
        return state, TimeStep(self.observe(state), reward, over, jnp.zeros((), bool))


CONFIG = f"""
steps: 6400
warmup_steps: 0
rollout_length: 5
updates_per_rollout: 4
evaluation_episodes: {EPISODES}
seed: 3
seeds: 2
agent:
  name: on_policy
  policy_loss: ppo
  learning_rate: 1e-2
  network: {{hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}
env: {{name: "{__name__}:Recall", num_envs: 16, normalise_observations: true}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    (folder / "recall.yaml").write_text(CONFIG)
    assert main(["train", str(folder / "recall.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def play(policy, seed, step, forget=False):
    """Returns [E] and actions [L, E] of one episode each, from an evaluation's random keys."""
    env = vectorise(Recall(), EPISODES)  # not normalised, because the policy normalises
    key = jax.random.fold_in(stream(jax.random.key(seed), "evaluation"), step)
    state, seen = env.reset(stream(key, "reset"))
    memory, actions = policy.initial_memory(EPISODES), []
    for now in range(LENGTH):
        act_key, env_key = jax.random.split(jax.random.fold_in(key, now))
        action, memory = policy.act(seen.observation, memory, seen.is_first, act_key)
        if forget:
            memory = policy.initial_memory(EPISODES)
        state, seen = env.step(state, action, env_key)
        actions.append(np.asarray(action))
    assert seen.is_last.all()
    return np.asarray(seen.episode_return), np.array(actions)


@pytest.mark.slow
def test_episodes_played_with_it_are_those_of_evaluate(run, capsys):
    experiment = build(load(run, trust=True))
    step, state, _ = restore(run, experiment)
    episodes = experiment.evaluate(state, step)
    assert main(["evaluate", str(run), "--trust", "--episodes", str(EPISODES)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for i, seed in enumerate((3, 4)):
        returns, actions = play(load_policy(run, seed, trust=True), seed, step)
        np.testing.assert_allclose(returns, episodes.episode_return[i], rtol=1e-6)
        form = (
            r"seed (\d+): mean return (\S+) \(min (\S+), max (\S+), (\d+) episodes\) at step (\S+);"
        )
        said = [float(x.replace(",", "")) for x in re.match(form, lines[i]).groups()]
        about = [seed, returns.mean(), returns.min(), returns.max(), EPISODES, step]
        np.testing.assert_allclose(said, about, atol=0.01)
        # Negative control: actions after the cue differ, but not without memory.
        assert all(len(set(row)) > 1 for row in actions)
        forgetful, blind = play(load_policy(run, seed, trust=True), seed, step, forget=True)
        assert all(len(set(row)) == 1 for row in blind[1:])
        assert np.abs(forgetful - returns).max() > 0.1


def test_memory_is_reset_where_an_episode_begins(run):
    policy, key = load_policy(run, trust=True), jax.random.key(0)
    cues = 3.0 * jnp.eye(CUES) + 1.0
    yes, no = jnp.ones(CUES, bool), jnp.zeros(CUES, bool)
    old = policy.act(jnp.ones((CUES, CUES)), policy.initial_memory(CUES), yes, key)[1]
    fresh = policy.act(cues, policy.initial_memory(CUES), yes, key)
    again, went_on = (policy.act(cues, old, first, key) for first in (yes, no))
    jax.tree.map(np.testing.assert_array_equal, fresh, again)
    assert np.abs(fresh[1].actor.belief - went_on[1].actor.belief).max() > 0.01


def test_the_memory_is_that_of_the_agent_and_the_key_draws_nothing(run):
    policy, agent = load_policy(run, trust=True), build(load(run, trust=True)).agent
    shapes = [jax.tree.map(jnp.shape, p.initial_memory(5)) for p in (policy, agent)]
    assert shapes[0] == shapes[1]
    seen = jnp.ones((5, CUES)), policy.initial_memory(5), jnp.ones(5, bool)
    one, other = (policy.act(*seen, jax.random.key(i)) for i in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    jax.tree.map(np.testing.assert_array_equal, one, policy.act(*seen))


def test_an_agent_without_action_values_has_none(run):
    policy = load_policy(run, trust=True)
    seen = jnp.ones((1, CUES)), policy.initial_memory(1), jnp.ones(1, bool)
    with pytest.raises(UserError, match="agent that learns action values, got 'on_policy'"):
        policy.values(*seen)


QUANTILES = """
agent: {name: qr_dqn_retrace, num_quantiles: 5, network: {hidden: [4]}}
env: {name: bellmax/Catch, num_envs: 2, normalise_observations: true}
"""


def test_values_have_quantiles_where_the_network_has(tmp_path):
    """An untrained policy; all dtypes are accepted if observations are normalised."""
    (tmp_path / "config.yaml").write_text(QUANTILES)
    experiment = build(load(tmp_path, trust=True))
    save_policies(experiment, experiment.init(), tmp_path / "policy", 0)
    policy, shape = load_policy(tmp_path, trust=True), experiment.observation.shape
    seen = np.ones((2, *shape), int), (), np.ones(2, bool)
    found = policy.values(*seen)
    assert found.quantiles.shape[:2] == (2, 5)
    np.testing.assert_allclose(found.q_values, found.quantiles.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(policy.act(*seen)[0], found.q_values.argmax(axis=1))


KINDS = {
    "memory": """
agent: {name: dqn, network: {hidden: [4], memory: gru, memory_size: 4}}
env: {name: bellmax/Catch, num_envs: 2}
""",
    "masked": """
agent: {name: dqn, network: {hidden: [4]}}
env: {name: bellmax/TicTacToe, num_envs: 2}
""",
    "objective": """
agent: {name: qr_dqn_retrace, objective: "homeostasis:2", num_quantiles: 5, network: {hidden: [4]}}
env: {name: bellmax/Gamble, num_envs: 2}
""",
}


@pytest.fixture(params=KINDS)
def untrained(tmp_path, request):
    """The kind of a policy, the policy, and two of its observations."""
    (tmp_path / "config.yaml").write_text(KINDS[request.param])
    experiment = build(load(tmp_path, trust=True))
    save_policies(experiment, experiment.init(), tmp_path / "policy", 0)
    shape = 2, *experiment.observation.shape
    return request.param, load_policy(tmp_path, trust=True), np.ones(shape, np.float32)


def test_a_policy_gets_what_its_agent_sees(untrained):
    kind, policy, seen = untrained
    memory, yes, no = policy.initial_memory(2), np.ones(2, bool), np.zeros(2, bool)
    if kind == "memory":
        _, later = policy.act(seen, memory, yes)
        again = policy.act(seen, later, yes)[1]
        went_on = policy.act(seen, later, no)[1]
        np.testing.assert_array_equal(later.belief, again.belief)
        assert np.abs(went_on.belief - later.belief).max() > 0
        assert policy.values(seen, later, no).q_values.shape == (2, 3)
        return
    needed = {"masked": "action_mask", "objective": "reward"}[kind]
    with pytest.raises(UserError, match=f"{needed} must be given for this policy, got None"):
        policy.act(seen, memory, yes)
    if kind == "masked":
        for cell in (2, 7):
            mask = np.arange(9) == np.array([cell, 5])[:, None]
            action, _ = policy.act(seen, memory, yes, action_mask=mask)
            np.testing.assert_array_equal(action, [cell, 5])
    else:
        _, memory = policy.act(seen, memory, yes, reward=np.zeros(2))
        _, memory = policy.act(seen, memory, no, reward=np.array([0.0, 2.0]))
        np.testing.assert_allclose(memory.stock, np.array([-2.0, 0.0]) / 0.99, rtol=1e-5)
