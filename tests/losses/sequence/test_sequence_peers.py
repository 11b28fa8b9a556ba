"""Comparison with TRL on the same numbers: equal, unless TRL's gradient is not that of the KL.

Losses of its trainers are methods; here they run on a stand-in with the attributes that they read.
"""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.losses import sequence
from helpers.answers import ANSWERS, REF, ROWS, THETA, in_float64

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("default")]

BATCH, T, V = 4, 6, 5
BETA, NOISE = 0.3, 0.1
LENGTHS = np.array([[6, 3, 4, 2], [5, 6, 1, 4]])  # of the chosen and the rejected answers
MASK = np.arange(T) < LENGTHS[..., None]  # [2, B, T]


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("trl")
    return pytest.importorskip("torch")


def close(got, wanted, tolerance=1e-9):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def stand_in(torch, **attributes):
    """What the methods read of a trainer on one process; metrics go nowhere."""
    same = lambda x: x  # noqa: E731
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        gather=same,
        gather_for_metrics=same,
        reduce=lambda x, reduction: x,
        num_processes=1,
    )
    return types.SimpleNamespace(
        accelerator=accelerator,
        model=types.SimpleNamespace(training=False),
        _metrics={"eval": collections.defaultdict(list)},
        aux_loss_enabled=False,
        beta=BETA,
        **attributes,
    )


def trl_dpo(torch, name, log_pi, log_ref):
    """TRL's DPO loss of a batch of per-token log-probabilities [2, B, T], and its gradient."""
    from trl import DPOTrainer

    mask = torch.tensor(MASK).reshape(2 * BATCH, T)
    rows = torch.tensor(log_pi, requires_grad=True)
    blank = torch.zeros(2 * BATCH, T, dtype=rows.dtype)
    output = types.SimpleNamespace(
        # As the model of TRL gives them: 0 outside of the answer.
        log_probs=torch.where(mask, rows.reshape(2 * BATCH, T), blank),
        entropy=blank,
        mean_logits=blank,
        is_top1=mask,
    )
    trainer = stand_in(
        torch,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        label_smoothing=NOISE,
        use_weighting=False,
        _total_train_tokens=0,
    )
    sums = torch.tensor(np.sum(log_ref * MASK, axis=-1))
    first = torch.zeros(2 * BATCH, 1, dtype=torch.bool)  # a prompt of one token
    inputs = {
        "input_ids": torch.zeros(2 * BATCH, T + 1, dtype=torch.long),
        "completion_mask": torch.cat([first, mask], dim=1),
        "ref_chosen_logps": sums[0],
        "ref_rejected_logps": sums[1],
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    loss.backward()
    return loss.item(), rows.grad.numpy()


OURS = {
    "sigmoid": (lambda rho: sequence.dpo_loss(rho, beta=BETA), False),
    "hinge": (lambda rho: sequence.gpo_loss(rho, beta=BETA, function="hinge"), False),
    "robust": (
        lambda rho: sequence.noisy_label_loss(rho, beta=BETA, epsilon=NOISE, unbiased=True),
        False,
    ),
    # Both divide by the number of tokens.
    "ipo": (lambda rho: sequence.ipo_loss(rho, tau=BETA), True),
    "sigmoid_norm": (lambda rho: sequence.dpo_loss(rho, beta=BETA), True),
}


@pytest.mark.parametrize("name", OURS)
def test_preference_losses_equal_those_of_trl(torch, name):
    generator = np.random.default_rng(0)
    log_pi, log_ref = -generator.exponential(size=(2, 2, BATCH, T))
    rule, average = OURS[name]

    def ours(log_pi, log_ref):
        def one(log_pi, log_ref, mask):
            total = lambda x, i: sequence.sequence_log_prob(x[i], mask[i], average=average)  # noqa: E731
            return rule(
                sequence.preference_margin(
                    *(total(x, i) for x in (log_pi, log_ref) for i in (0, 1))
                )
            )

        loss = lambda x: jnp.mean(jax.vmap(one, (1, 1, 1))(x, log_ref, MASK))  # noqa: E731
        return jax.value_and_grad(loss)(log_pi)

    value, slope = in_float64(ours, log_pi, log_ref)
    wanted, wanted_slope = trl_dpo(torch, name, log_pi, log_ref)
    close(value, wanted)
    close(slope, wanted_slope)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_divergences_equal_those_of_trl(torch, beta):
    """At 0 and 1 it returns the limits of quotients, which we call by name."""
    from trl.experimental.gkd import GKDTrainer

    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 2, T, V))
    mask = MASK[:, 1]
    labels = torch.tensor(np.where(mask, 0, -100))
    leaf = torch.tensor(student, requires_grad=True)
    rule = GKDTrainer.generalized_jsd_loss
    wanted = rule(leaf, torch.tensor(teacher), labels, beta=beta, temperature=1.5)
    wanted.backward()
    named = {0.0: {"divergence": "forward"}, 1.0: {"divergence": "reverse"}}
    options = named.get(beta, {"beta": beta}) | {"temperature": 1.5, "average": False}

    def ours(student, teacher):
        one = lambda *row: sequence.gkd_loss(*row, **options)  # noqa: E731
        # Its mean is over the tokens of the batch.
        loss = lambda x: jnp.sum(jax.vmap(one)(x, teacher, mask)) / np.sum(mask)  # noqa: E731
        return jax.value_and_grad(loss)(student)

    value, slope = in_float64(ours, student, teacher)
    close(value, wanted.item())
    close(slope, leaf.grad.numpy())


def trl_grpo(torch, log_pi, log_mu, log_ref, adv, mask, *, beta):
    """TRL's GRPO loss of a batch [N, T] of torch tensors."""
    from trl import GRPOTrainer

    trainer = stand_in(
        torch,
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            log_pi,
            torch.zeros_like(log_pi),
            None,
        ),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None),
        loss_type="grpo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    trainer.beta = beta
    inputs = {
        "prompt_ids": torch.zeros(len(log_pi), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(log_pi), 1, dtype=torch.long),
        "completion_ids": torch.zeros(log_pi.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": adv,
        "old_per_token_logps": log_mu,
        "ref_per_token_logps": log_ref,
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def test_the_clipped_surrogate_equals_that_of_trl(torch):
    generator = np.random.default_rng(0)
    log_mu, log_ref = -generator.exponential(size=(2, BATCH, T))
    log_pi = log_mu + 0.2 * generator.normal(size=(BATCH, T))
    adv, mask = generator.normal(size=BATCH), MASK[0]
    leaf = torch.tensor(log_pi, requires_grad=True)
    rest = map(torch.tensor, (log_mu, log_ref, adv, mask.astype(int)))
    wanted = trl_grpo(torch, leaf, *rest, beta=BETA)
    wanted.backward()

    def ours(log_pi, log_mu, log_ref, adv):
        one = lambda *row: sequence.grpo_loss(*row, beta=BETA, kl="k3")  # noqa: E731
        loss = lambda x: jnp.mean(jax.vmap(one)(x, log_mu, log_ref, adv, mask))  # noqa: E731
        return jax.value_and_grad(loss)(log_pi)

    value, slope = in_float64(ours, log_pi, log_mu, log_ref, adv)
    close(value, wanted.item())
    close(slope, leaf.grad.numpy())


def test_the_kl_term_of_trl_has_the_gradient_of_another_kl(torch):
    """Expected over all answers of the model of two tokens; test_sequence_kl.py has the exact one.

    It is local to tokens and of KL(ref, pi): .2310586 where the KL's own is .1665144.
    """
    theta = torch.tensor(THETA, requires_grad=True)
    log_pi = torch.log_softmax(theta, dim=1)[ROWS, ANSWERS]
    log_ref = torch.log_softmax(torch.tensor(REF), dim=1)[ROWS, ANSWERS]
    odds = torch.exp(log_pi.sum(dim=1)).detach()
    total = 0.0
    for i in range(4):
        row = log_pi[i : i + 1], log_pi[i : i + 1].detach(), log_ref[i : i + 1]
        none, mask = torch.zeros(1, dtype=log_pi.dtype), torch.ones(1, 2, dtype=torch.long)
        # Times 2, as it is a mean over two tokens.
        total = total + 2 * odds[i] * trl_grpo(torch, *row, none, mask, beta=1.0)
    total.backward()
    close(theta.grad.numpy()[:, 0], [0.2310586, 0.0967709, -0.0821619], 1e-6)
