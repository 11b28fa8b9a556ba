"""rejax's DQN with the hyper-parameters of reference_dqn.py, one turn for each line on stdin.

`speed.py --rejax PYTHON` starts it under the Python that has rejax; it needs no bellmax.

    PYTHON benchmarks/rejax_dqn.py SEEDS UPDATES CAPACITY
"""

import argparse
import sys

import jax
from arguments import import_peer, parse
from flax import linen as nn

ENVS = 10


def make(updates, capacity):
    """Return the algorithm, with a single evaluation that does nothing."""
    steps = updates * ENVS
    get_algo = import_peer("rejax", 'rejax "gymnax<1" six').get_algo
    dqn = get_algo("dqn").create(
        env="CartPole-v1",
        num_envs=ENVS,
        num_epochs=1,
        batch_size=128,
        buffer_size=capacity,
        fill_buffer=1_000,
        learning_rate=2.5e-4,
        gamma=0.99,
        ddqn=False,
        target_update_freq=50 * ENVS,  # environment steps
        polyak=0.0,  # a copy
        exploration_fraction=0.5,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
    )
    agent = dqn.agent.clone(hidden_layer_sizes=(120, 84), activation=nn.relu)
    return dqn.replace(agent=agent, eval_callback=lambda algo, state, key: ())


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("seeds", 1), ("updates", 10_000), ("capacity", 10_000)):
        parser.add_argument(name, type=int, nargs="?", default=default)
    arguments = parse(parser, words, updates=100)
    seeds, dqn = arguments.seeds, make(arguments.updates, arguments.capacity)

    def advance(state):
        return dqn.train(train_state=state)[0]

    keys = jax.random.split(jax.random.key(0), seeds)
    init, train = dqn.init_state, advance
    if seeds > 1:
        init, train = jax.vmap(init), jax.vmap(train)
    state = jax.jit(init)(keys if seeds > 1 else keys[0])
    train = jax.jit(train)
    for _ in range(2):  # the first call fills the buffer, and may change dtypes
        state = jax.block_until_ready(train(state))
    print("done", flush=True)
    for _ in sys.stdin:
        state = jax.block_until_ready(train(state))
        print("done", flush=True)


if __name__ == "__main__":
    main()
