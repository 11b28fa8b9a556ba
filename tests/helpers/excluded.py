"""Entries that a rule must ignore: past an end, masked, or of probability 0.

The names of a case's arrays decide which entries can be excluded. Each exclusion is tried with
finite values, and with nan, inf and -inf in the excluded entries. Row 0 of an axis always counts.
"""

import numpy as np

CUT = 1  # the row at which a window ends
GARBAGE = (np.nan, np.inf, -np.inf)
NEXT = ("q_t", "q_t_value", "target_q_t", "v_t", "advantage_t", "dist_q_t", "dist_v_t")
NEXT += ("q_logits_t", "log_prob_t", "target_dist_q_t", "pi_t", "probs_a_t")
SHARED = ("q_atoms_t", "q_atoms_tm1")  # have no rows
OF_NEXT_ACTION = ("c_t", "mu_t", "lambda_t")  # belong to the action after a step
# Probabilities, with the values that have no influence where they are 0.
PROBABILITIES = {
    "pi_t": ("q_t", "dist_q_t", "q_logits_t"),
    "probs_a_t": ("q_t", "dist_q_t", "q_logits_t"),
    "weights": ("target",),
    "probs": ("values",),
}
MASKED = ("log_pi_a_t", "adv_t", "kl_t", "predictions", "errors", "uncertainty", "r_t")
# Of tokens; where they are numbers of whole answers, there is no mask.
MASKED += ("log_prob", "log_pi", "log_ref", "log_mu", "adv", "v")
MASKED += ("logits", "student_logits", "teacher_logits")


def excluded(case):
    """(name, floats, floats with garbage, last row of the output that counts or None), each."""
    floats = case.floats(np.float64)
    window = "trace_t" in floats
    for kind in (_ends, _terminations, _last_rows) if window else (_terminal,):
        last = CUT if window and kind is not _last_rows else None
        yield from _with_garbage(kind.__name__, *kind(floats), last)
    for name, values in PROBABILITIES.items():
        chosen = [value for value in values if value in floats]
        if name in floats and chosen:
            yield from _with_garbage(name, *_improbable(case, floats, name, chosen), None)
    if "mask" in floats:
        yield from _with_garbage("mask", *_masked(floats), None)


def _with_garbage(name, floats, where, last):
    """The floats, and copies with each kind of garbage at the positions of a mask."""
    if any(np.any(chosen) for chosen in where.values()):
        for garbage in GARBAGE:
            filled = {n: np.where(where.get(n, False), garbage, x) for n, x in floats.items()}
            yield f"{name} {garbage}", floats, filled, last


def _rows(floats):
    return len(floats["trace_t"])


def _past(floats, too):
    """Positions of each array past the end of a window; for arrays in `too`, also the end's row."""
    where = {}
    for name, x in floats.items():
        if x.ndim and len(x) == _rows(floats) and name not in SHARED:
            rows = np.arange(len(x)) >= (CUT if name in too else CUT + 1)
            where[name] = np.broadcast_to(rows.reshape(-1, *(1,) * (x.ndim - 1)), x.shape)
    return where


def _ends(floats):
    trace = np.where(np.arange(_rows(floats)) == CUT, 0.0, 0.9)
    return floats | {"trace_t": trace}, _past(floats, OF_NEXT_ACTION)


def _terminations(floats):
    rows = np.arange(_rows(floats))
    ended = {"discount_t": np.where(rows == CUT, 0.0, 0.9), "trace_t": np.full(len(rows), 0.9)}
    return floats | ended, _past(floats, (*OF_NEXT_ACTION, *NEXT, "trace_t"))


def _last_rows(floats):
    where = {}
    for name in ("trace_t", *OF_NEXT_ACTION):
        if name in floats:
            where[name] = np.arange(_rows(floats)) == _rows(floats) - 1
    return floats, where


def _terminal(floats):
    if "discount_t" not in floats:
        return floats, {}
    where = {name: np.ones(floats[name].shape, bool) for name in NEXT if name in floats}
    return floats | {"discount_t": np.zeros_like(floats["discount_t"])}, where


def _improbable(case, floats, name, values):
    """One action that was not taken, or one atom, has probability 0 in each row."""
    actions = floats[name].shape[-1]
    taken = np.asarray(case.arrays.get("a_t", np.zeros(floats[name].shape[:-1], int)))
    off = np.arange(actions) == (taken[..., None] + 1) % actions
    where = {}
    for value in values:
        # Actions are the last axis, but for logits, and after the row of a window.
        chosen = off[..., None] if value == "q_logits_t" else off
        if value == "dist_q_t":
            chosen = off[..., None, :]
        where[value] = np.broadcast_to(chosen, floats[value].shape)
    return floats | {name: np.where(off, 0.0, floats[name])}, where


def _masked(floats):
    mask = floats["mask"].copy()
    mask[-1] = 0.0
    where = {}
    for name in MASKED:
        if name in floats and floats[name].ndim >= mask.ndim:
            x = floats[name]
            off = (mask == 0).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
            where[name] = np.broadcast_to(off, x.shape)
    return floats | {"mask": mask}, where
