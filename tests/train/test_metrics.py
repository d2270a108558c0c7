"""The streaming metrics against scikit-learn and against their own definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from tablefold.train import metrics as metrics_module
from tablefold.train.metrics import Meter


def meter_of(logits, labels, batches=1):
    meter = Meter()
    for z, y in zip(np.array_split(logits, batches), np.array_split(labels, batches), strict=True):
        meter.update(torch.from_numpy(z), torch.from_numpy(y))
    return meter


def clicks(rows, seed, scale=1.0, shift=-1.0):
    """Logits around `shift` with clicks drawn from them."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(rows) * scale + shift).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return logits, labels


@pytest.mark.parametrize("scale", [0.001, 1.0, 8.0])
@pytest.mark.parametrize("rows", [1_000, 1_000_000])
def test_figures_equal_scikit_learn(rows, scale):
    logits, labels = clicks(rows, seed=rows, scale=scale)
    metrics = meter_of(logits, labels, batches=7).compute()
    rates = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert metrics.auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)
    assert metrics.logloss == pytest.approx(log_loss(labels, rates), rel=1e-9)
    mean = labels.mean(dtype=np.float64)
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    assert metrics.normalized_entropy == pytest.approx(metrics.logloss / entropy, rel=1e-9)
    assert metrics.calibration == pytest.approx(rates.sum() / labels.sum(dtype=np.float64), rel=1e-9)
    assert (metrics.rows, metrics.positives) == (rows, int(labels.sum()))


@pytest.mark.slow
def test_auc_is_exact_on_twenty_million_rows():
    logits, labels = clicks(20_000_000, seed=1)
    assert meter_of(logits, labels, batches=200).compute().auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=60),
    seed=st.integers(0, 1000),
)
def test_ties_count_half(scores, seed):
    """Against the definition: every (positive, negative) pair, ties half."""
    labels = np.random.default_rng(seed).integers(0, 2, len(scores)).astype(np.float32)
    labels[:2] = 0, 1
    logits = np.array(scores, dtype=np.float32)
    difference = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    expected = ((difference > 0) + 0.5 * (difference == 0)).mean()
    assert meter_of(logits, labels).compute().auc == pytest.approx(expected, abs=1e-12)


def test_a_full_histogram_coarsens_and_stays_exact(monkeypatch):
    """Merged in any order the histogram is the same, and so is the AUC."""
    monkeypatch.setattr(metrics_module, "HISTOGRAM_BINS", 1 << 12)
    monkeypatch.setattr(metrics_module.ScoreHistogram, "_PENDING_ROWS", 1 << 12)
    logits, labels = clicks(60_000, seed=5)
    whole = meter_of(logits, labels, batches=9)
    small, large = (
        meter_of(logits[:3_000], labels[:3_000]),
        meter_of(logits[3_000:], labels[3_000:], batches=2),
    )
    small.merge(large)
    assert small.compute().auc == whole.compute().auc
    assert whole._scores._shift > 0
    assert len(whole._scores._keys) <= 1 << 12
    assert whole.compute().auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-5)


def test_merging_equals_one_meter():
    logits, labels = clicks(10_000, seed=3)
    whole, left, right = (meter_of(logits[part], labels[part]) for part in np.s_[:, :4_000, 4_000:])
    left.merge(right)
    one, merged = whole.compute(), left.compute()
    assert merged.auc == one.auc
    assert merged.logloss == pytest.approx(one.logloss, rel=1e-12)
    assert merged.calibration_error == pytest.approx(one.calibration_error, rel=1e-9)
    assert merged.rows == one.rows


def test_extreme_logits_keep_their_order_and_their_loss():
    metrics = meter_of(np.float32([-1e4, 900.0, 1e4, -900.0]), np.float32([0, 0, 1, 1])).compute()
    assert metrics.auc == 0.75
    assert metrics.logloss == pytest.approx((900 + 900) / 4)


def test_calibration_error_of_known_bins():
    # 10 rows at rate 0.5 with 8 clicks, 10 rows at rate ~0.12 with no click
    logits = np.float32([0.0] * 10 + [-2.0] * 10)
    labels = np.float32([1] * 8 + [0] * 12)
    expected = (abs(5 - 8) + 10 / (1 + math.exp(2))) / 20
    assert meter_of(logits, labels).compute().calibration_error == pytest.approx(expected)


def test_undefined_figures_are_nan():
    single = meter_of(np.float32([0.5, 1.0]), np.float32([0, 0])).compute()
    assert math.isnan(single.auc)
    assert math.isnan(single.normalized_entropy)
    assert math.isnan(single.calibration)
    assert not math.isnan(single.logloss)
    assert math.isnan(Meter().compute().logloss)


def test_bad_input_is_refused():
    meter = Meter()
    with pytest.raises(ValueError, match="not finite"):
        meter.update(torch.tensor([1.0, math.nan]), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="0 or 1"):
        meter.update(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5]))
    assert meter.compute().rows == 0
