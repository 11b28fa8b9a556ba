"""The contract of all losses, on those of sequences."""

import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.contract import Case, check_contract

T, K, V = 5, 4, 6
NUMBERS = "p", "r_other", "score", "correct", "reference_scores", "anchor_scores"
GENERATOR = np.random.default_rng(0)


def draw(*shape):
    return np.asarray(GENERATOR.normal(size=shape), np.float32)[()]


MASK = {"mask": np.array([1.0, 1.0, 0.0, 1.0, 1.0])}
TOKENS = {"log_pi": -np.exp(draw(T)), "log_ref": -np.exp(draw(T))}
GROUP = {"log_pi": draw(K), "log_ref": draw(K), "r": draw(K)}
R, P = {"r": np.float32(0.7)}, {"p": np.float32(0.3)}
BETA, PI = {"beta": 0.3}, ("log_pi",)
RHO, RHOS = {"rho": np.float32(0.4)}, ("rho",)
PAIR = {"log_pi_w": -np.float32(2.0), "log_pi_l": -np.float32(1.4)}
REFS = {"log_ref_w": -np.float32(1.7), "log_ref_l": -np.float32(1.9)}
WORDS = {"logits": draw(T, V), "token": np.array([0, 3, 5, 1, 1])} | MASK
LOGITS = {"student_logits": draw(V), "teacher_logits": draw(V)}
LONG = {"student_logits": draw(T, V), "teacher_logits": draw(T, V)} | MASK
CORRECT = {"correct": np.array([1.0, 0.0, 1.0, 0.0])}
ANSWERS = {"answer": np.array([2, 1, 2, 0])}
GAME = {"p": np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])}
REF = {"ref": np.array([0.5, 0.3, 0.2])}
SRPO = {
    name: draw()
    for name in (
        *("log_ratio_w", "log_ratio_l", "log_ratio_w_after_l", "log_ratio_l_after_w"),
        *("log_ratio_w_after_w", "log_ratio_l_after_l"),
    )
}
G = {"g": draw(), "g_other": draw()}


def case(name, arrays, learns=(), hyper=None, **rest):
    return Case(getattr(sequence, name), arrays, learns, hyper or {}, numbers=NUMBERS, **rest)


PREFERENCES = [
    case("token_log_probs", WORDS, ("logits",), free=("logits",)),
    case("sequence_log_prob", {"log_prob": TOKENS["log_pi"]} | MASK, ("log_prob",)),
    case("preference_margin", PAIR | REFS, tuple(PAIR)),
    *(
        case("gpo_loss", RHO, RHOS, BETA, static={"function": function})
        for function in (
            "logistic",
            "squared",
            "hinge",
            "truncated_quadratic",
            "exponential",
            "savage",
        )
    ),
    case("dpo_loss", RHO, RHOS, BETA),
    case("ipo_loss", RHO, RHOS, {"tau": 0.3}),
    case("noisy_label_loss", RHO, RHOS, BETA | {"epsilon": 0.2}),
    case("noisy_label_loss", RHO, RHOS, BETA | {"epsilon": 0.2}, static={"unbiased": True}),
    case(
        "rpo_loss",
        RHO | {"log_pi_w": PAIR["log_pi_w"]},
        ("rho", "log_pi_w"),
        BETA | {"eta": 0.1},
    ),
    case("srpo_loss", SRPO, tuple(SRPO), {"beta": 0.5, "alpha": 0.3, "p": 0.8}),
    case("cpl_loss", PAIR, tuple(PAIR), {"alpha": 0.2, "bias": 0.5}),
    case(
        "cpl_rating_loss",
        {"log_pi": draw(K), "score": np.arange(4.0)},
        PI,
        {"alpha": 0.2, "bias": 0.5},
        keeps=("score",),
    ),
    case("top_k_entropy", {"logits": draw(V)}, ("logits",), static={"k": 3}, free=("logits",)),
    case("top_k_mass", {"logits": draw(V)}, ("logits",), static={"k": 3}, free=("logits",)),
]
GRADIENTS = [
    case("kl_estimate", TOKENS | MASK, static={"estimator": "k3"}),
    case("kl_penalised_rewards", TOKENS | R | MASK, hyper=BETA),
    case("kl_penalised_returns", TOKENS | R | MASK, hyper=BETA),
    case("sequence_kl_loss", TOKENS | MASK, PI, {"baseline": 0.2}),
    case("token_kl_loss", TOKENS | MASK, PI),
    case("reinforce_loss", {"log_pi": TOKENS["log_pi"], "adv": draw(T)} | MASK, PI),
    case("leave_one_out_advantages", {"r": GROUP["r"]}, ("r",), free=("r",)),
    case("group_advantages", {"r": GROUP["r"]}, ("r",), {"epsilon": 0.1}, free=("r",)),
    case("rloo_loss", GROUP, PI, BETA),
    case("copg_loss", GROUP, PI, BETA),
    case("agro_loss", GROUP, PI, BETA),
    case("agro_loss", GROUP, PI, BETA, static={"on_policy": True}, surrogates=PI),
    case("asymmetric_reinforce_loss", {n: GROUP[n] for n in ("log_pi", "r")}, PI, {"delta": 0.1}),
    case(
        "soft_policy_loss",
        {"log_pi": draw(), "log_ref": draw()} | R | {"v": draw()},
        (*PI, "v"),
        BETA,
    ),
    case("soft_path_loss", TOKENS | {"v": draw(T)} | R | MASK, (*PI, "v"), BETA),
    case("pass_at_k", CORRECT, static={"k": 2}, free=("correct",)),
    case("pass_at_k_advantages", CORRECT, static={"k": 2}, free=("correct",)),
    case("majority_vote", ANSWERS | CORRECT),
    case("majority_advantages", ANSWERS | CORRECT, static={"k": 3}),
    case(
        "jepo_loss",
        {"log_pi_thought": draw(K), "log_pi_answer": draw(K)},
        ("log_pi_thought", "log_pi_answer"),
    ),
]
GRPO = {"log_pi": TOKENS["log_pi"], "log_mu": TOKENS["log_pi"] + 0.05 * draw(T)}
GRPO |= {"log_ref": TOKENS["log_ref"], "adv": np.float32(0.6)} | MASK
GRADIENTS += [
    case("grpo_loss", GRPO, PI, BETA | {"epsilon": 0.2}, static={"kl": kl})
    for kl in ("k3", "returns")
]
NFT = {n: GRPO[n] for n in ("log_pi", "log_mu")} | {"correct": np.float32(0.0)} | P | MASK
GRADIENTS += [
    case("nft_loss", NFT, PI, {"floor": 1e-3}, keeps=("correct",)),
    case("nft_loss", NFT | {"correct": np.float32(1.0)}, PI, keeps=("correct",)),
]
GAMES = [
    case("pairwise_regression_loss", G | P, tuple(G), {"scale": 2.0}),
    case(
        "inpo_log_ratio",
        {"log_pi": draw(), "log_pi_t": draw(), "log_ref": draw()},
        PI,
        {"tau": 0.2, "eta": 0.5},
    ),
    case("mixture_logits", {"logits_pi": draw(V), "logits_ref": draw(V)}, hyper={"b": 0.3}),
    case("nash_md_loss", TOKENS | P | MASK, PI, {"tau": 0.2, "baseline": 0.4}),
    case(
        "dno_loss",
        {"log_ratio": draw(), "log_ratio_other": draw()} | R | {"r_other": np.float32(0.2)},
        ("log_ratio", "log_ratio_other"),
        {"eta": 0.3},
    ),
    case("win_rates", GAME, ("p",)),
    case(
        "nash_md_step",
        {"pi": np.array([0.4, 0.35, 0.25])} | REF | GAME,
        ("pi", "ref", "p"),
        {"tau": 0.2, "eta": 0.5},
        values=(),
    ),
    case("regularised_equilibrium", GAME | REF, ("p", "ref"), {"tau": 0.2}, values=()),
    case("minimax_winner", GAME, values=()),
]
DISTILLATION = [
    case("generalised_jsd", LOGITS, ("student_logits",), {"beta": 0.3, "temperature": 1.5}),
    *(
        case(
            "gkd_loss",
            LONG,
            ("student_logits",),
            {"beta": 0.3, "temperature": 1.5} if divergence == "jensen_shannon" else {},
            static={"divergence": divergence},
        )
        for divergence in ("jensen_shannon", "forward", "reverse")
    ),
    case("sequence_iq_rewards", WORDS, ("logits",), {"gamma": 0.9}, free=("logits",)),
    case("sequence_iq_loss", WORDS, ("logits",), {"gamma": 0.9, "lambda_": 0.2}, free=("logits",)),
    case(
        "best_of_n_log_prob",
        {"log_ref": np.log(np.array([0.4, 0.3, 0.2, 0.1])), "score": np.array([0.0, 1, 1, 2])},
        ("log_ref",),
        {"n": 3.0},
        values=("score",),
        keeps=("score",),
    ),
    case(
        "quantile_reward",
        {"score": np.float32(0.5), "reference_scores": draw(K)},
        free=("reference_scores",),
    ),
    case(
        "j_bond_reward",
        {"score": np.float32(-5.0), "anchor_scores": draw(2)},
        free=("anchor_scores",),
    ),
    case(
        "jeffreys_divergence",
        {"log_target": np.log(GAME["p"][1] / 1.3), "log_pi": np.log(REF["ref"])},
        PI,
        {"b": 0.3},
        values=(),
    ),
    case(
        "bond_loss",
        {"log_pi_best": draw(), "log_pi": draw(), "log_ref": draw(), "reward": draw()},
        ("log_pi_best", "log_pi"),
        {"n": 3.0, "b": 0.3, "baseline": 0.1},
    ),
]
CASES = PREFERENCES + GRADIENTS + GAMES + DISTILLATION
# These take long to compile, or are close to others that run here.
SLOW = {
    *("agro_loss-True", "best_of_n_log_prob", "cpl_rating_loss", "generalised_jsd"),
    *("gkd_loss-forward", "gkd_loss-reverse", "gpo_loss-hinge", "gpo_loss-savage"),
    *("gpo_loss-squared", "gpo_loss-truncated_quadratic", "group_advantages", "grpo_loss-k3"),
    *("jeffreys_divergence", "jepo_loss", "majority_advantages-3", "majority_vote"),
    *("kl_estimate-k3", "minimax_winner", "mixture_logits", "nash_md_step", "nft_loss"),
    *("noisy_label_loss-True", "regularised_equilibrium", "sequence_iq_loss"),
    *("sequence_iq_rewards", "token_log_probs", "top_k_entropy-3", "top_k_mass-3", "win_rates"),
}
TREES = {"average_weights", "lerp", "slerp", "task_vector", "merge_task_vectors"}


def parameter(case):
    return pytest.param(case, id=str(case), marks=[pytest.mark.slow] * (str(case) in SLOW))


@pytest.mark.parametrize("case", [parameter(case) for case in CASES])
def test_contract(case):
    check_contract(case)


def test_every_function_has_a_case():
    """Those of pytrees have tests of their own."""
    assert {case.function.__name__ for case in CASES} == set(sequence.__all__) - TREES
