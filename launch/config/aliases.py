"""Names that other libraries use for our configuration keys; error messages suggest ours."""

from collections.abc import Collection

# Names of Stable-Baselines3, CleanRL, RLlib, Dopamine and others -> last part of our key.
NAMES = {
    "discount": "gamma discount_factor",
    "learning_rate": "lr learning_rate step_size optimizer_lr",
    "target_rate": "tau polyak soft_update_rate ema_rate",
    "target_period": "target_update_interval target_network_frequency target_update_period "
    "target_update_freq target_network_update_freq target_update_every",
    "epsilon_steps": "exploration_fraction eps_decay epsilon_decay epsilon_decay_period "
    "exploration_steps epsilon_decay_steps",
    "epsilon_start": "exploration_initial_eps eps_start start_e initial_epsilon start_epsilon",
    "epsilon_end": "exploration_final_eps eps_end end_e epsilon_train final_epsilon min_epsilon "
    "end_epsilon",
    "batch_size": "batch minibatch_size train_batch_size batchsize",
    "max_gradient_norm": "max_grad_norm grad_clip gradient_clip clip_grad_norm",
    "n_step": "n_steps nstep multi_step update_horizon",
    "num_quantiles": "n_quantiles quantiles num_atoms",
    "temperature": "munchausen_tau entropy_tau",
    "exploration_noise": "action_noise noise_std expl_noise",
    "target_noise": "policy_noise target_policy_noise",
    "target_noise_clip": "noise_clip",
    "policy_delay": "policy_frequency policy_freq",
    "advantage_decay": "gae_lambda lam gae",
    "entropy_cost": "ent_coef entropy_coef entropy_coeff",
    "value_cost": "vf_coef value_coef vf_loss_coeff",
    "clip_epsilon": "clip_range clip_coef clip_param",
    "network.hidden": "net_arch hidden_sizes hidden_layers layers hidden_dims fcnet_hiddens",
    "agent.name": "algo algorithm algo_name",
    "steps": "total_timesteps num_timesteps n_timesteps total_steps num_steps max_steps timesteps "
    "total_env_steps num_train_steps max_timesteps",
    "warmup_steps": "learning_starts start_timesteps warmup min_replay_history learning_start "
    "min_replay_size initial_collect_steps random_timesteps",
    "rollout_length": "train_freq train_frequency update_every update_period update_frequency "
    "unroll_length rollout_steps",
    "updates_per_rollout": "gradient_steps utd utd_ratio updates_per_step train_intensity "
    "num_updates n_epochs update_epochs",
    "evaluate_every": "eval_freq eval_every eval_interval eval_frequency evaluation_interval",
    "evaluation_episodes": "n_eval_episodes eval_episodes num_eval_episodes",
    "checkpoint_every": "save_freq save_every save_interval checkpoint_frequency checkpoint_freq",
    "log_every": "log_interval log_freq log_frequency logging_interval",
    "keep_checkpoints": "max_to_keep keep",
    "seeds": "num_seeds n_seeds",
    "devices": "num_devices n_devices gpus num_gpus",
    "wandb": "track wandb_project wandb_project_name",
    "env.name": "env_id env_name environment task game",
    "env.num_envs": "n_envs num_env num_workers nenvs envs num_actors",
    "env.time_limit": "max_episode_steps max_episode_length max_ep_len",
    "env.frame_stack": "n_stack num_stack stack_size",
    "env.options": "env_kwargs env_args",
    "env.normalise_observations": "norm_obs normalize_observations normalize_obs vec_normalize",
    "env.reward_clip": "clip_rewards clip_reward reward_clipping",
    "replay.capacity": "buffer_size replay_buffer_size memory_size replay_capacity replay_size "
    "max_replay_size buffer_capacity",
    "replay.prioritised": "prioritized_replay per prioritized prioritised_replay",
    "replay.priority_exponent": "per_alpha prioritized_replay_alpha",
    "replay.importance_exponent": "per_beta prioritized_replay_beta",
    "--out": "logdir log_dir output_dir save_dir tensorboard_log run_dir experiment_dir",
    "--resume": "load_checkpoint restore",
}
_BY_ALIAS = {alias: ours for ours, aliases in NAMES.items() for alias in aliases.split()}


def known_as(word: str, keys: Collection[str]) -> str | None:
    """Return our key for a name of another library, None if there is none.

    Args:
      word: the name, with any sections before it, such as `agent.lr`.
      keys: dotted keys of the configuration.
    """
    ours = _BY_ALIAS.get(word.rpartition(".")[2].lower().replace("-", "_"))
    if ours is None or ours.startswith("--"):
        return ours
    found = [key for key in keys if key == ours or key.endswith(f".{ours}")]
    section = word.rpartition(".")[0]
    inside = [key for key in found if key.startswith(f"{section}.")] if section else []
    return min(inside or found, key=len, default=None)
