"""Agents: one file an algorithm, each a handful of pure functions behind one contract."""

from bellmax.agents.base import Agent, Batch, LearnerState, LearnOutput, Memory, Params

__all__ = ["Agent", "Batch", "LearnOutput", "LearnerState", "Memory", "Params"]
