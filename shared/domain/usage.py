"""What agents have used: tokens, and what they cost."""

from collections.abc import Iterable, Mapping
from typing import Any

# The kinds of tokens that are priced apart, by their names in every `usage`. Input tokens are those that no cache knew.
TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")


def totals(usages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of the `usage` of some runs: runs, unpriced_runs, cost_usd, and TOKENS.

    `cost_usd` leaves out what unpriced runs cost: those that used a model whose price is not known.
    """
    each = list(usages)
    costs = [usage.get("cost_usd", 0) for usage in each]
    priced = [cost for cost in costs if cost is not None]
    tokens = {name: sum(usage.get(name, 0) for usage in each) for name in TOKENS}
    return {
        "runs": len(each),
        "unpriced_runs": len(costs) - len(priced),
        "cost_usd": round(sum(priced), 6),
        **tokens,
    }
