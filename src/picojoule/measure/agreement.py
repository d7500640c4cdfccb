"""Where counted operations predict the time of a layer, and where they do not."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

FURTHEST = 3  # layers that the sentence names


def rank_agreement(rows: Sequence[dict[str, Any]]) -> float | None:
    """Spearman's rank correlation of predicted operations and measured time; equal values share a rank.

    Args:
        rows: of `cost.predicted_and_measured`.
    Returns:
        -1 to 1; None below three layers, or where all layers predict or take the same.
    """
    if len(rows) < 3:
        return None
    ranks = []
    for key in ("predicted", "measured_us"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        below, same = values[:, None] > values, values[:, None] == values
        ranks.append(below.sum(1) + same.sum(1) / 2)
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def price_ratios(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """Layers (name, time of one of their operations / the median of that over layers), furthest from 1 first.

    Layers without operations or without a measured time are left out.
    """
    prices = [(r["name"], r["measured_us"] / r["predicted"]) for r in counted(rows)]
    if not prices:
        return []
    middle = statistics.median(price for _, price in prices)
    ratios = [(name, price / middle) for name, price in prices]
    return sorted(ratios, key=lambda pair: -abs(np.log(pair[1])))


def counted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with operations and a measured time, which logarithms and prices need."""
    return [r for r in rows if r["predicted"] > 0 and r["measured_us"] > 0]


def agreement_sentence(rows: Sequence[dict[str, Any]]) -> str:
    """The rank agreement in words, and the layers furthest from a constant price; "" without rows.

    >>> agreement_sentence([{"name": "a", "predicted": 10, "measured_us": 5.0}])
    'rank agreement of counted operations and measured time: needs three layers that differ'
    """
    rows = counted(rows)
    if not rows:
        return ""
    rank = rank_agreement(rows)
    text = "rank agreement of counted operations and measured time: "
    if rank is None:
        return text + "needs three layers that differ"
    off = ", ".join(f"{name} ({ratio:.2g} x)" for name, ratio in price_ratios(rows)[:FURTHEST])
    return (
        f"{text}{rank:.2f} over {len(rows)} layers (Spearman); "
        f"furthest from the median time of an operation: {off}"
    )
