"""bellmax: modern value-based reinforcement learning in JAX, as a library and as a program."""

__version__ = "0.1.0"


class UserError(ValueError):
    """Something that the user can put right; its message is one sentence that says how.

    The command line prints the message without a traceback and exits with code 2.
    """
