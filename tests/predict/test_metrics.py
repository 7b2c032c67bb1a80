"""Metrics against scipy's and scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import r2_score as reference

from gmn_opt.predict import accuracy, kendall_tau, r2_score


def test_against_references() -> None:
    true = torch.randn(700).round(decimals=1)
    predicted = (true + torch.randn(700)).round(decimals=1)
    assert kendall_tau(predicted, true) == pytest.approx(kendalltau(predicted, true).statistic)
    assert r2_score(predicted, true) == pytest.approx(reference(true.double(), predicted.double()))


def test_edges() -> None:
    assert kendall_tau(torch.ones(4), torch.arange(4.0)) == 0.0
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="received 3 and 2"):
        r2_score(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="all of them are the same"):
        r2_score(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="Accuracy needs logits"):
        accuracy(torch.zeros(3), torch.zeros(3))
