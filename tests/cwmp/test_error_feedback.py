"""Nothing is lost: what was sent and what is remembered add up to everything there was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.error_feedback import ErrorFeedback
from cwmp.selection import Rule, select

COSTS = {"a": 1.0, "b": 3.0}


def updates(rounds: int, seed: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"a": torch.randn(6, 5, generator=generator), "b": torch.randn(7, generator=generator)}
        for _ in range(rounds)
    ]


def send(
    feedback: ErrorFeedback, update: dict[str, Tensor], rule: Rule, budget_j: float
) -> dict[str, Tensor]:
    corrected = feedback.corrected(update)
    generator = torch.Generator().manual_seed(0)
    masks = select(corrected, COSTS, budget_j, rule=rule, generator=generator).masks
    sent = {name: torch.where(masks[name], value, 0.0) for name, value in corrected.items()}
    feedback.remember(corrected, sent)
    return sent


@given(
    st.sampled_from(["cwmp", "cwmp-l1", "topk", "randomk", "dense"]), st.integers(1, 20), st.integers(0, 99)
)
@settings(deadline=None, max_examples=40)
def test_sent_and_residual_add_up_to_all_updates(rule: Rule, rounds: int, seed: int) -> None:
    feedback = ErrorFeedback()
    total = {"a": torch.zeros(6, 5), "b": torch.zeros(7)}
    out = {name: value.clone() for name, value in total.items()}
    for update in updates(rounds, seed):
        sent = send(feedback, update, rule, 12.0)
        for name in total:
            total[name] += update[name]
            out[name] += sent[name]
    residual = feedback.state_dict()
    for name in total:
        torch.testing.assert_close(out[name] + residual[name], total[name], rtol=1e-5, atol=1e-5)


def test_a_kept_coordinate_leaves_no_residual_and_any_other_leaves_all_of_it() -> None:
    feedback = ErrorFeedback()
    update = {"w": torch.tensor([1.0, -5.0, 2.0])}
    corrected = feedback.corrected(update)
    feedback.remember(corrected, {"w": torch.tensor([0.0, -5.0, 0.0])})
    assert feedback.state_dict()["w"].tolist() == [1.0, 0.0, 2.0]
    assert feedback.corrected(update)["w"].tolist() == [2.0, -5.0, 4.0]


def test_what_was_rounded_on_the_way_is_remembered_too() -> None:
    feedback = ErrorFeedback()
    corrected = feedback.corrected({"w": torch.tensor([1.2, -0.7])})
    feedback.remember(corrected, {"w": corrected["w"].round()})
    assert feedback.state_dict()["w"].tolist() == pytest.approx([0.2, 0.3])


def test_a_coordinate_that_is_never_large_is_sent_in_the_end() -> None:
    feedback = ErrorFeedback()
    small_sent = 0.0
    for _ in range(30):
        sent = send(feedback, {"a": torch.tensor([1.0, 0.1])}, "topk", 1.0)
        small_sent += float(sent["a"][1])
    assert small_sent == pytest.approx(3.0, abs=1.1)
    assert small_sent > 0


def test_a_saved_residual_goes_on_where_it_stopped() -> None:
    through, first = ErrorFeedback(), ErrorFeedback()
    rounds = updates(6, 4)
    for update in rounds[:3]:
        send(through, update, "cwmp", 9.0)
        send(first, update, "cwmp", 9.0)
    second = ErrorFeedback()
    second.load_state_dict(first.state_dict())
    for update in rounds[3:]:
        sent_through = send(through, update, "cwmp", 9.0)
        sent_second = send(second, update, "cwmp", 9.0)
        assert all(torch.equal(sent_through[name], sent_second[name]) for name in sent_through)


def test_a_state_is_a_copy() -> None:
    feedback = ErrorFeedback()
    assert feedback.state_dict() == {}
    update = {"w": torch.ones(2)}
    corrected = feedback.corrected(update)
    corrected["w"].mul_(3)
    assert update["w"].tolist() == [1.0, 1.0]
    feedback.remember(corrected, {"w": torch.zeros(2)})
    feedback.state_dict()["w"].zero_()
    assert feedback.state_dict()["w"].tolist() == [3.0, 3.0]


def test_another_network_or_a_broken_residual_is_refused() -> None:
    feedback = ErrorFeedback()
    corrected = feedback.corrected({"w": torch.ones(2)})
    with pytest.raises(UsageError, match="tensor w"):
        feedback.remember(corrected, {"w": torch.ones(3)})
    feedback.remember(corrected, {"w": torch.zeros(2)})
    with pytest.raises(UsageError, match="tensor v"):
        feedback.corrected({"w": torch.ones(2), "v": torch.ones(1)})
    with pytest.raises(UsageError, match="not finite"):
        feedback.load_state_dict({"w": torch.tensor([float("nan")])})
