"""One small configuration per agent, with every feature that has state in a checkpoint."""

# Statistics of observations, priorities, n-step returns, two seeds; 100 vector steps warm up.
CONFIGS = {
    "dqn": """
agent: {name: dqn, batch_size: 64, network: {hidden: [64]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
""",
    "munchausen_dqn": """
seeds: 2
agent: {name: munchausen_dqn, batch_size: 32, n_step: 2, network: {hidden: [32]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8, normalise_observations: true}
replay: {prioritised: true}
""",
    # Three copies of the q-network's parameters, a second network, and the scale of the weights.
    "variance_weighting": """
agent: {name: munchausen_dqn, variance_weighting: true, batch_size: 32, network: {hidden: [32]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
""",
    # Windows of four steps, with the log-probabilities of the actor's actions in replay.
    "qr_dqn_retrace": """
seeds: 2
agent:
  {name: qr_dqn_retrace, num_quantiles: 8, n_step: 3, target_epsilon: 0.1, batch_size: 16,
   max_gradient_norm: 10, network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8, normalise_observations: true}
replay: {prioritised: true}
""",
    # Random fractions in every gradient step.
    "iqn": """
seeds: 2
agent:
  {name: iqn, munchausen: true, n_step: 2, num_quantiles: 4, num_target_quantiles: 3,
   num_policy_quantiles: 5, batch_size: 16, network: {hidden: [16, 8]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8, normalise_observations: true}
replay: {prioritised: true}
""",
    "c51": """
agent:
  {name: c51, trace: retrace, n_step: 3, target_epsilon: 0.1, num_atoms: 11, v_min: 0, v_max: 50,
   batch_size: 16, network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {prioritised: true}
""",
    "va_learning": """
agent: {name: va_learning, batch_size: 16, n_step: 2, network: {hidden: [32]}}
env: {name: bellmax/CartPole, num_envs: 4, frame_stack: 8}
replay: {prioritised: true}
""",
    # The memory before each step in replay, and priorities of sequences.
    "recurrent": """
seeds: 2
agent:
  {name: dqn, batch_size: 8, sequence_length: 8, burn_in: 2, n_step: 2,
   network: {hidden: [16], memory: lstm, memory_size: 8}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
replay: {prioritised: true}
""",
    # Action masks in replay.
    "masked": """
agent: {name: munchausen_dqn, batch_size: 16, network: {hidden: [16]}}
env: {name: bellmax/TicTacToe, num_envs: 4}
""",
    # The stock of each step in replay.
    "objective": """
agent:
  {name: qr_dqn_retrace, trace: one_step, num_quantiles: 8, objective: "cvar:0.5",
   return_range: [-1, 5], batch_size: 16, network: {hidden: [16]}}
env: {name: bellmax/Gamble, num_envs: 4}
""",
    # Two networks, an actor that is updated every other step, and a bandit fed by episodes.
    "expectrl": """
seeds: 2
agent:
  {name: expectrl, alpha: auto, batch_size: 32, random_steps: 500, network: {hidden: [16]}}
env: {name: bellmax/Pendulum, num_envs: 4, time_limit: 30, normalise_observations: true}
replay: {prioritised: true}
""",
    # Without replay: the state has recurrent memory, a target encoder and a reward scale.
    "byol_explore": """
seeds: 2
rollout_length: 5
agent:
  {name: byol_explore, batch_size: 2, horizon: 3, predictor_hidden: [8],
   network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
""",
    "rnd": """
rollout_length: 5
agent:
  {name: rnd, batch_size: 4, policy_loss: ppo, rnd_hidden: [8], rnd_features: 8,
   network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}}
env: {name: bellmax/CartPole, num_envs: 4}
""",
    # Minibatches of transitions, and targets with draws of their own.
    "pqn": """
seeds: 2
rollout_length: 5
agent:
  {name: pqn, batch_size: 5, num_quantiles: 4, learning_rate_steps: 1000,
   network: {hidden: [16]}}
env: {name: bellmax/CartPole, num_envs: 4, normalise_observations: true}
""",
    # Minibatches of environments, and the memory before a rollout.
    "recurrent_pqn": """
seeds: 2
rollout_length: 5
agent:
  {name: pqn, batch_size: 2, learning_rate_steps: 1000,
   network: {hidden: [16], norm: layer, memory: gru, memory_size: 8}}
env: {name: bellmax/TicTacToe, num_envs: 4}
""",
    "td3": """
agent: {name: td3, batch_size: 32, policy_delay: 3, random_steps: 500, network: {hidden: [32]}}
env: {name: bellmax/Pendulum, num_envs: 4, time_limit: 30, frame_stack: 8}
""",
}
ON_POLICY = ("byol_explore", "pqn", "recurrent_pqn", "rnd")
COMMON = """
warmup_steps: 400
updates_per_rollout: 4
log_every: 100
evaluation_episodes: 2
evaluation_max_steps: 50
keep_checkpoints: 100
"""
