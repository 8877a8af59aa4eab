"""The objective, against diffusers' scheduler, scipy and closed forms."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from scipy import stats

from genrefocus.flow import (
    Flow,
    Shift,
    SigmaDistribution,
    euler_step,
    interpolate,
    schedule,
    shift_sigma,
)
from genrefocus.sampling import denoise

SHAPE = (3, 6, 4)
FLOWS = [Flow("velocity"), Flow("residual")]


def tokens(seed, dtype=torch.float32):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("count", [60, 256, 1024, 1960, 4096, 9999])
def test_shift_is_that_of_diffusers(count):
    assert Shift().mu(count) == pytest.approx(calculate_shift(count), abs=1e-12)
    config = {
        "base_image_seq_len": 64,
        "max_image_seq_len": 900,
        "base_shift": 0.2,
        "max_shift": 3.0,
    }
    mu = calculate_shift(count, 64, 900, 0.2, 3.0)
    assert Shift.of_scheduler(config).mu(count) == pytest.approx(mu, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
@pytest.mark.parametrize("count", [60, 1024, 1960, 4096])
def test_schedule_is_that_of_diffusers_to_the_last_bit(steps, count):
    mu = Shift().mu(count)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    assert schedule(steps, mu) == scheduler.sigmas.tolist()


def test_schedule_needs_a_step():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        schedule(0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_euler_loop_is_that_of_diffusers(dtype):
    """Over a whole trajectory, with a velocity that depends on both arguments.

    In bf16 diffusers rounds each increment before it is added, which the fp32 step here does not.
    """
    steps, mu = 7, Shift().mu(1024)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)

    def velocity(x, sigma):
        return x * 0.7 - 0.3 * float(sigma)

    theirs = tokens(0, dtype)
    for sigma, timestep in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
        theirs = scheduler.step(velocity(theirs, sigma), timestep, theirs)[0]
    ours = denoise(velocity, tokens(0, dtype), schedule(steps, mu))
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_euler_step_is_computed_in_fp32():
    x = torch.full((1, 1, 1), 1.0, dtype=torch.bfloat16)
    step = euler_step(x, torch.full_like(x, 3.0), 0.1, 0.097)
    assert step.dtype == torch.bfloat16
    assert float(step) == float(torch.tensor(1.0 - 3.0 * 0.003).to(torch.bfloat16))


# Distributions of sigma.


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_against_scipy(mean, std):
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    ours = SigmaDistribution("logit_normal", mean, std).draw(u, mu=1.0)
    theirs = 1 / (1 + np.exp(-stats.norm(mean, std).ppf(u.numpy())))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)


@pytest.mark.parametrize("kind", ["logit_normal", "uniform"])
@pytest.mark.parametrize("shifted", [False, True])
def test_sigma_is_in_range_for_every_uniform_draw(kind, shifted):
    u = torch.tensor([0.0, 1e-8, 0.5, 1 - 2**-24])
    sigma = SigmaDistribution(kind, shifted=shifted).draw(u, mu=1.15)
    assert ((sigma > 0) & (sigma <= 1)).all()


def test_uniform_and_shifted_distributions():
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert stats.kstest(SigmaDistribution("uniform").draw(u, 1.0).numpy(), "uniform").pvalue > 0.01
    # The shift adds mu to the logit: a logit-normal of mean m becomes one of mean m + mu.
    shifted = SigmaDistribution("logit_normal", 0.2, 0.8, shifted=True).draw(u, mu=0.9)
    moved = SigmaDistribution("logit_normal", 1.1, 0.8).draw(u, mu=0.0)
    torch.testing.assert_close(shifted, moved, rtol=1e-5, atol=1e-5)


def test_shift_keeps_the_ends():
    assert shift_sigma(torch.tensor([1.0, 0.0]), 1.15).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: SigmaDistribution("cosine"), "cosine"),
        (lambda: Flow(prediction="x0"), "x0"),
    ],
)
def test_unknown_choices_are_named(make, names):
    with pytest.raises(ValueError, match=names):
        make()


# The path, its velocity and its loss.


@pytest.mark.parametrize("flow", FLOWS, ids=lambda f: f.prediction)
def test_velocity_is_the_derivative_of_the_path(flow):
    """The exact output gives x_1 - x_0, which a finite difference of the path confirms."""
    clean, noise, condition = (tokens(seed, torch.float64) for seed in range(3))
    sigma = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    output = noise - clean if flow.prediction == "velocity" else clean - condition
    x = interpolate(clean, noise, sigma)
    difference = (interpolate(clean, noise, sigma + 1e-3) - x) / 1e-3
    torch.testing.assert_close(
        flow.velocity(output, x, sigma, condition).double(), difference, rtol=1e-5, atol=1e-5
    )
    assert flow.loss(output, clean, noise, condition).tolist() == pytest.approx([0.0] * 3)


def test_loss_is_per_sample_and_has_the_closed_form():
    """For an output of zero the loss is the mean square of x_1 - x_0, or of x_0 - condition."""
    clean, noise, condition = tokens(0), tokens(1), tokens(2)
    zero = torch.zeros(SHAPE)
    velocity = Flow().loss(zero, clean, noise, condition)
    residual = Flow(prediction="residual").loss(zero, clean, noise, condition)
    np.testing.assert_allclose(velocity, ((noise - clean).numpy() ** 2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(residual, ((clean - condition).numpy() ** 2).mean((1, 2)), rtol=1e-5)


def test_loss_of_bf16_tokens_is_computed_in_fp32():
    clean, noise = tokens(0, torch.bfloat16), tokens(1, torch.bfloat16)
    loss = Flow().loss(torch.zeros_like(clean), clean, noise, clean)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(
        loss, ((noise.float() - clean.float()).numpy() ** 2).mean((1, 2)), rtol=1e-5
    )


def test_both_parametrisations_describe_one_flow():
    """Networks that know the same x_0 give the same velocity, whatever they are asked for."""
    guess, noise, condition = tokens(0), tokens(1), tokens(2)
    sigma = torch.tensor([0.05, 0.4, 1.0])
    by_velocity, by_residual = FLOWS
    x = interpolate(guess, noise, sigma)
    torch.testing.assert_close(
        by_residual.velocity(guess - condition, x, sigma, condition),
        by_velocity.velocity(noise - guess, x, sigma, condition),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("flow", FLOWS, ids=lambda f: f.prediction)
@pytest.mark.parametrize("steps", [1, 3, 28])
def test_exact_velocity_recovers_the_clean_latents_in_any_number_of_steps(flow, steps):
    clean, noise, condition = tokens(0), tokens(1), tokens(2)

    def velocity(x, sigma):
        output = noise - clean if flow.prediction == "velocity" else clean - condition
        return flow.velocity(output, x, torch.full((3,), sigma), condition)

    recovered = denoise(velocity, noise, schedule(steps, Shift().mu(64)))
    torch.testing.assert_close(recovered, clean, rtol=1e-4, atol=1e-5)
