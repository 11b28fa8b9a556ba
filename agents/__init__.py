"""Agents: one file per algorithm, each a few pure functions behind one contract."""

from bellmax.agents.base import Agent, Batch, LearnerState, LearnOutput, Memory, Params

__all__ = ["Agent", "Batch", "LearnOutput", "LearnerState", "Memory", "Params"]
