"""What prices are expected to bring a run, from one update before its first round.

Client 0 trains from the initial weights as it will in round 1; nothing is sent, and no random draw of the run
is used up. Histograms of that update stand for the updates of all clients and rounds.
"""

from __future__ import annotations

import math

from cwmp.gradient_histogram import GradientHistogram
from cwmp.predicted_gain import Gain, empirical_gains, predicted_gains, price_groups
from cwmp.training.client_round import train_client
from cwmp.training.federation import Federation
from cwmp.training.local_training import DivergedError, single_thread, weights_of


def expected_gain(federation: Federation) -> Gain:
    """What each rule is expected to keep of an update at the prices and the budget of client 0.

    Where the update is not finite, gradients of Laplace's distribution and equal scale stand for it.
    """
    federation = federation.of_client(0)
    prices_j = federation.budget.prices.prices_j
    everything_j = math.fsum(
        price_j * federation.budget.prices.tensors[name].layout.numel for name, price_j in prices_j.items()
    )
    share = min(federation.budget.allowance_j / everything_j, 1.0)
    try:
        with single_thread():
            trained = train_client(federation, weights_of(federation.network), round_index=1, client=0)
    except DivergedError:
        return predicted_gains(price_groups(federation.budget.prices), (share,))[0]
    histograms = {name: GradientHistogram.of(trained.update[name]) for name in prices_j}
    return empirical_gains(histograms, prices_j, (share,))[0]
