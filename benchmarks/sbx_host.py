"""SBX's DQN on CartPole or TD3 on Hopper; each line on stdin is a number of environment steps.

`host.py --sbx PYTHON` starts it under the Python that has sbx-rl; it needs no bellmax.

    PYTHON benchmarks/sbx_host.py cartpole|hopper STEPS NUM_ENVS
"""

import argparse
import sys

from arguments import import_peer, parse

INSTALL = 'sbx-rl "gymnasium[classic-control,mujoco]"'


def make_model(task, num_envs):
    """The model of a task, with the hyper-parameters of `host.py`."""
    sbx = import_peer("sbx", INSTALL)
    make_vec_env = import_peer("stable_baselines3.common.env_util", INSTALL).make_vec_env
    if task == "cartpole":
        return sbx.DQN(
            "MlpPolicy",
            make_vec_env("CartPole-v1", num_envs),
            learning_rate=2.5e-4,
            buffer_size=10_000,
            learning_starts=1_000,
            batch_size=128,
            train_freq=10 // num_envs,
            target_update_interval=500,
            exploration_fraction=1e-6,
            exploration_final_eps=0.05,
            policy_kwargs={"net_arch": [120, 84]},
        )
    return sbx.TD3(
        "MlpPolicy",
        make_vec_env("Hopper-v5", num_envs),
        learning_rate=3e-4,
        buffer_size=100_000,
        learning_starts=1_000,
        batch_size=256,
        train_freq=1,
        gradient_steps=num_envs,
        policy_delay=2,
        policy_kwargs={"net_arch": [256, 256]},
    )


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", default="cartpole", choices=["cartpole", "hopper"])
    parser.add_argument("steps", type=int, nargs="?", default=20_000, help="in a turn")
    parser.add_argument("num_envs", type=int, nargs="?", default=1)
    arguments = parse(parser, words, steps=100)
    steps, model = arguments.steps, make_model(arguments.task, arguments.num_envs)
    model.learn(2_000)  # fills replay and compiles
    print("done", flush=True)
    for _ in sys.stdin:
        model.learn(steps, reset_num_timesteps=False)
        print("done", flush=True)


if __name__ == "__main__":
    main()
