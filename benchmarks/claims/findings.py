"""What the numbers say, in words: the first lines of each study's section. Written by hand."""

CLAIMS = {
    "va_learning": "VA-learning and behaviour dueling",
    "qr_dqn_retrace": "Retrace for distributions",
    "munchausen_dqn": "Munchausen DQN",
    "byol_explore": "BYOL-Explore",
    "expectrl": "ExpectRL",
}
FINDINGS: dict[str, str] = {
    "va_tables": """**Shown for many actions, not for few.** Tuned on both sides, VA-learning is behind
Q-learning with 2 and 5 actions (1.15 to 1.64 times the error) and ahead with 10 and 50 (0.88 to 0.42 times),
with intervals apart in all eight settings; so are its greedy policies with 10 and 50. Behaviour dueling is ahead
of Q-learning in seven of eight settings (0.77 to 0.37 times the error) and level with it in the eighth,
two actions and a skewed behaviour. Under a uniform behaviour it is dueling itself; under a skewed one
it is ahead of uniform dueling in action gaps and policies, not in values. The reason: V and A of VA-learning
both take up the offset that a state's actions share, so its error rises once after it has fallen (the curves with
2 to 10 actions), which costs more than sharing gains when only few actions share. The one residual of dueling does
not do that.""",
}
