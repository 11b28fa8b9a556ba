"""What the numbers say, in words: the first lines of each study's section. Written by hand."""

CLAIMS = {
    "va_learning": "VA-learning and behaviour dueling",
    "qr_dqn_retrace": "Retrace for distributions",
    "munchausen_dqn": "Munchausen DQN",
    "byol_explore": "BYOL-Explore",
    "expectrl": "ExpectRL",
}
FINDINGS: dict[str, str] = {}
