"""ExpectRL: one critic that learns an expectile of its target, below the mean if alpha < 1/2.

delta = r + gamma q_target(s', a') - q(s, a)
loss = 2 |alpha - 1{delta < 0}| delta^2

AutoExpectRL (`alpha: auto`) learns a policy and a value for each of several alphas, on shared
trunks, from all data. A bandit chooses the alpha whose policy acts in an episode; its feedback is
the increase of the return over the episode before.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.actor_critic import ExpectRLConfig
from bellmax.agents.shared.actor_critic import CriticLoss, make_actor_critic_agent
from bellmax.agents.shared.base import (
    ActInput,
    ActorOutput,
    Agent,
    LearnerState,
    Outcome,
    Params,
)
from bellmax.envs import EnvSpec


class Chooser(NamedTuple):
    """The bandit. last_return: [] of the latest episode. episodes: [] int32, episodes so far."""

    bandit: losses.BanditState
    last_return: jax.Array
    episodes: jax.Array


def make_expectrl(config: ExpectRLConfig, spec: EnvSpec) -> Agent:
    """Makes an ExpectRL agent; `alpha: auto` makes it AutoExpectRL.

    Not verified against the paper's full text, which was not available: the values of alpha, the
    bandit's hyper-parameters, whether heads share the target's noise (here they do), the arm used
    in evaluations (here the one with the largest weight), and the loss over heads (here the sum).

    Raises:
      UserError: the task's actions are not a vector with finite bounds.
    """
    auto = isinstance(config.alpha, str)
    alphas = jnp.asarray(config.alphas if auto else (config.alpha,))
    rule = jax.vmap(_loss, in_axes=(0, None, None, 0, 0))  # over heads

    def critic_loss(
        q_tm1: jax.Array, r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array
    ) -> CriticLoss:
        each, errors = jax.vmap(rule, in_axes=(0, 0, 0, 0, None))(
            q_tm1[:, 0], r_t, discount_t, q_t[:, 0], alphas
        )
        return CriticLoss(each.sum(axis=1), errors.mean(axis=1))

    agent = make_actor_critic_agent(config, spec, critic_loss, num_heads=len(alphas))
    return _with_bandit(config, agent) if auto else agent


def _loss(
    q_tm1: jax.Array, r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array, alpha: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and absolute TD error of one head for one transition."""
    loss = losses.expectile_td_loss(q_tm1, r_t, discount_t, q_t, alpha=alpha)
    error = jnp.abs(r_t + discount_t * q_t - q_tm1)
    return loss, jax.lax.stop_gradient(error)


def _with_bandit(config: ExpectRLConfig, agent: Agent) -> Agent:
    """Wraps the agent with a bandit that draws the acting head at the start of each episode."""

    def init(key: jax.Array) -> LearnerState:
        bandit = losses.bandit_init(len(config.alphas), window=config.bandit_window)
        chooser = Chooser(bandit, jnp.zeros(()), jnp.zeros((), jnp.int32))
        return agent.init(key)._replace(aux=chooser)

    def actor_params(state: LearnerState) -> Params:
        return agent.actor_params(state), state.aux.bandit

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        actor, bandit = params
        memory = inputs.memory
        key, arm_key = jax.random.split(inputs.key)
        if evaluate:
            arm = jnp.full_like(memory, jnp.argmax(bandit.weights))
        else:
            keys = jax.random.split(arm_key, memory.shape[0])
            drawn = jax.vmap(losses.bandit_sample, in_axes=(None, 0))(bandit, keys)
            arm = jnp.where(inputs.is_first, drawn, memory)
        return agent.act(actor, inputs._replace(memory=arm, key=key), evaluate=evaluate)

    def feed(chooser: Chooser, arm: jax.Array, episode_return: jax.Array) -> Chooser:
        rise = episode_return - chooser.last_return
        step_size = config.bandit_step_size
        if config.bandit == "windowed":
            decay = config.bandit_decay
            fed = losses.bandit_update_windowed(
                chooser.bandit, arm, rise, step_size=step_size, decay=decay
            )
        else:
            rise, floor = rise / config.bandit_scale, config.bandit_floor
            fed = losses.bandit_update(chooser.bandit, arm, rise, step_size=step_size, floor=floor)
        # The first episode has no predecessor to compare with.
        is_first = chooser.episodes == 0
        bandit: Any = jax.tree.map(lambda o, n: jnp.where(is_first, o, n), chooser.bandit, fed)
        return Chooser(bandit, episode_return, chooser.episodes + 1)

    def observe(state: LearnerState, outcome: Outcome) -> LearnerState:
        """Updates the bandit with every ended episode, ordered by time and then by environment."""
        arms, returns, ended = (jnp.ravel(x) for x in outcome)
        (rows,) = jnp.nonzero(ended, size=ended.size, fill_value=0)

        def one(i: jax.Array, chooser: Chooser) -> Chooser:
            return feed(chooser, arms[rows[i]], returns[rows[i]])

        return state._replace(aux=jax.lax.fori_loop(0, jnp.sum(ended), one, state.aux))

    return agent._replace(init=init, actor_params=actor_params, act=act, observe=observe)
