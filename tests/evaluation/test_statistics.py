"""Means by class and bootstrap intervals."""

import pytest
import torch

from pml_hashing.evaluation import bootstrap_interval, mean_by_class


def test_mean_by_class_of_ids(device):
    scores, labels = torch.rand(20, device=device), torch.randint(4, (20,)) * 3
    classes, means = mean_by_class(scores, labels)
    assert classes.tolist() == sorted(set(labels.tolist()))
    for label, mean in zip(classes.tolist(), means.tolist(), strict=True):
        each = [s for s, y in zip(scores.tolist(), labels.tolist(), strict=True) if y == label]
        assert mean == pytest.approx(sum(each) / len(each))


def test_mean_by_class_of_multi_hot_rows():
    scores = torch.tensor([1.0, 0.5, 0.0])
    labels = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    classes, means = mean_by_class(scores, labels)
    assert classes.tolist() == [0, 2]
    assert means.tolist() == [0.75, 1.0]


def test_interval_covers_the_mean_as_often_as_it_says():
    inside = 0
    for trial in range(200):
        scores = torch.rand(60, generator=torch.Generator().manual_seed(trial))
        low, high = bootstrap_interval(scores, 0.9, num_resamples=300)
        inside += low <= 0.5 <= high
    assert 165 <= inside <= 195  # 180 expected, 15 are more than 3 standard deviations


def test_interval_is_seeded_and_grows_with_confidence(monkeypatch):
    scores = torch.rand(50)
    narrow, wide = bootstrap_interval(scores, 0.5), bootstrap_interval(scores, 0.99)
    assert wide.low < narrow.low < scores.mean() < narrow.high < wide.high
    assert bootstrap_interval(scores) == bootstrap_interval(scores)
    assert bootstrap_interval(scores, seed=1) != bootstrap_interval(scores)
    hits = scores > 0.5
    assert bootstrap_interval(hits) == bootstrap_interval(hits.double())
    state = torch.get_rng_state()
    bootstrap_interval(scores)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr("pml_hashing.evaluation.statistics.DRAWS_AT_A_TIME", 30)
    low, high = bootstrap_interval(scores)  # in other draws, of one resample each
    assert scores.min() < low < scores.mean() < high < scores.max()


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.rand(3, 2), {}, r"`scores` of shape \(num_queries,\), not empty, got \(3, 2\)"),
        (torch.rand(0), {}, r"not empty, got \(0,\)"),
        (torch.rand(3), {"confidence": 95}, "`confidence` between 0 and 1, got 95"),
        (torch.rand(3), {"confidence": 1}, "`confidence` between 0 and 1, got 1"),
        (torch.rand(3), {"num_resamples": 0}, "`num_resamples` of at least 1, got 0"),
    ],
)
def test_bad_scores_are_named(scores, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(scores, **options)


@pytest.mark.parametrize("num_resamples", [torch.inf, 100.0, True])
def test_the_number_of_draws_is_an_integer(num_resamples):
    with pytest.raises(TypeError, match=f"`num_resamples` to be an integer, got {num_resamples}"):
        bootstrap_interval(torch.rand(3), num_resamples=num_resamples)


def test_scores_that_are_not_finite_have_no_interval():
    with pytest.raises(ValueError, match="finite `scores`"):
        bootstrap_interval(torch.tensor([0.5, torch.nan]))


def test_labels_must_match_scores():
    with pytest.raises(ValueError, match=r"`query_labels` of shape \(3,\)"):
        mean_by_class(torch.rand(3), torch.zeros(4))
