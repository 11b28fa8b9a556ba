"""bellmax's own tasks as JAX environments, several of them with exactly known values."""

from bellmax.envs.tasks.cartpole import CartPole
from bellmax.envs.tasks.catch import Catch
from bellmax.envs.tasks.deepsea import DeepSea
from bellmax.envs.tasks.gamble import Gamble
from bellmax.envs.tasks.noisy_grid import NoisyGrid
from bellmax.envs.tasks.pendulum import Pendulum
from bellmax.envs.tasks.pixel_catch import PixelCatch
from bellmax.envs.tasks.solvers import policy_evaluation, value_iteration
from bellmax.envs.tasks.tabular import TabularMDP, TwoStateChain, random_mdp
from bellmax.envs.tasks.tic_tac_toe import TicTacToe

__all__ = [
    "CartPole",
    "Catch",
    "DeepSea",
    "Gamble",
    "NoisyGrid",
    "Pendulum",
    "PixelCatch",
    "TabularMDP",
    "TicTacToe",
    "TwoStateChain",
    "policy_evaluation",
    "random_mdp",
    "value_iteration",
]
