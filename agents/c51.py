"""C51: the return as probabilities of atoms on a fixed grid, learned from windows of K steps.

nu_k(b) = law of r_1 + ... + gamma^{k-1} r_k + gamma^k Z_target(s_k, b)
target = sum_k c_1 ... c_{k-1} sum_b (pi(b | s_k) - c_k 1{b = a_k}) nu_k(b), projected onto the grid
loss = cross-entropy or squared Cramer distance of target and Z(s_0, a_0)

c_k = lambda min(1, pi / mu) is Retrace, c_k = lambda Q(lambda); one_step and n_step bootstrap once.
"""

import jax
import jax.numpy as jnp

from bellmax import UserError, losses, must
from bellmax.agents.configs.value_based import C51Config
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.traces import epsilon_greedy, trace_coefficients
from bellmax.agents.shared.value_based import ValueLoss, apply_sequence, make_value_agent
from bellmax.envs import EnvSpec, Step
from bellmax.networks import Network, categorical_head

REGRESSIONS = {
    "cross_entropy": losses.categorical_regression,
    "cramer": losses.categorical_cramer_regression,
}


def make_c51(config: C51Config, spec: EnvSpec) -> Agent:
    """Makes a C51 agent.

    Deviations from the paper of Q(lambda), whose full text was not available: the direction of
    `target_mixing`, which mixes the taken action into the greedy policy, and the Cramer distance.

    Raises:
      UserError: actions are not discrete, the network does not fit, or options contradict each
        other.
    """
    check_options(config)
    atoms = jnp.linspace(config.v_min, config.v_max, config.num_atoms)
    regression = jax.vmap(REGRESSIONS[config.regression], (None, 0, 0, 0))

    def loss_function(
        network: Network, params: Params, target_params: Params, steps: Step
    ) -> ValueLoss:
        before, after = steps.observation[:, 0], steps.observation[:, 1:]
        logits_tm1 = network.apply(params, before).logits
        led_to = apply_sequence(network, target_params, after)
        selector = led_to.q_values
        if config.selector == "online":
            selector = apply_sequence(network, params, after).q_values
        target = window_targets(
            config, atoms, steps, led_to.logits, selector, masked=spec.action_mask
        )
        rows = jnp.arange(logits_tm1.shape[0])
        logits_tm1 = logits_tm1[rows, steps.action[:, 0]]
        loss = regression(atoms, logits_tm1, *target)
        q_value = jnp.sum(jax.nn.softmax(logits_tm1) * atoms[None, :], axis=-1)
        mask = 1.0 - steps.is_last[:, 0]
        metrics = {}
        if config.trace in ("retrace", "q_lambda"):
            negative = -jnp.sum(jnp.minimum(target.weights, 0.0), axis=-1)
            metrics = {"negative_mass": losses.masked_mean(negative, mask)}
        return ValueLoss(loss, jnp.abs(jax.lax.stop_gradient(loss)), q_value, mask, metrics)

    head = categorical_head(config.num_atoms, config.v_min, config.v_max)
    keep = config.trace == "retrace" and config.target_epsilon > 0
    return make_value_agent(config, spec, loss_function, head=head, keep_log_prob=keep)


def check_options(config: C51Config) -> None:
    """Raise UserError if options contradict each other."""
    if not config.v_min < config.v_max:
        raise UserError(must("agent.v_max", f"above agent.v_min, {config.v_min}", config.v_max))
    if config.trace == "one_step" and config.n_step != 1:
        raise UserError(must("agent.n_step", "1 for agent.trace one_step", config.n_step))
    if config.trace in ("one_step", "n_step") and config.target_epsilon:
        allowed = f"0 for agent.trace {config.trace}"
        raise UserError(must("agent.target_epsilon", allowed, config.target_epsilon))
    if config.trace != "q_lambda" and config.target_mixing:
        allowed = f"0 for agent.trace {config.trace}"
        raise UserError(must("agent.target_mixing", allowed, config.target_mixing))


def window_targets(
    config: C51Config,
    atoms: jax.Array,
    steps: Step,
    logits: jax.Array,
    selector: jax.Array,
    *,
    masked: bool = False,
) -> losses.WeightedAtoms:
    """Targets of the windows' first steps before projection, leaves [B, L].

    Args:
      config: of the agent.
      atoms: [M], the grid.
      steps: [B, K + 1].
      logits: [B, K, A, M], of the target network, at the successors of the K transitions.
      selector: [B, K, A], values that choose the greedy action there.
      masked: whether illegal actions have values of -inf.
    """
    after = jax.tree.map(lambda x: x[:, 1:], steps)
    trace_t = 1.0 - after.is_last
    window = steps.reward[:, :-1], config.discount * steps.discount[:, :-1]

    if config.trace in ("one_step", "n_step"):

        def bootstrap_once(r_t, discount_t, logits, selector, trace_t) -> losses.WeightedAtoms:
            return losses.n_step_categorical_target(
                r_t, discount_t, atoms, logits, trace_t, q_t_selector=selector
            )

        return jax.vmap(bootstrap_once)(*window, logits, selector, trace_t)

    def corrected(r_t, discount_t, logits, selector, action, log_prob, trace_t):
        pi = epsilon_greedy(selector, config.target_epsilon, masked=masked)
        c_t = trace_coefficients(
            config.trace, action, pi, log_prob, trace_t, lambda_=config.trace_decay
        )
        # No action was taken at the last step of an episode: there the policy stays as it is.
        beta = config.target_mixing * trace_t[:, None]
        pi = (1.0 - beta) * pi + beta * jax.nn.one_hot(action, pi.shape[-1])
        return losses.categorical_retrace_target(
            r_t, discount_t, atoms, logits, action, pi, c_t, trace_t
        )

    rest = logits, selector, after.action, after.behaviour, trace_t
    return jax.vmap(corrected)(*window, *rest)
