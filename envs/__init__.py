from bellmax.envs.base import Environment, EnvSpec, EnvState, Step, TimeStep
