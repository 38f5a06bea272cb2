"""What OpenAI's models cost: Codex reports tokens, not money."""

from collections.abc import Mapping
from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    cached_input: float
    output: float
    cache_write: float


# Standard tier, requests up to 272,000 input tokens (longer ones cost 1.5 to 2 times as much, which a run's
# totals do not show), as third parties quoted OpenAI's price list between June and October 2026. A model that is not
# here has no known cost.
PRICES: dict[str, Price] = {
    "gpt-6-astra": Price(10.00, 1.00, 50.00, 12.50),
    "gpt-6.1-sol": Price(2.00, 0.10, 10.00, 2.50),
    "gpt-6-sol": Price(2.00, 0.20, 10.00, 2.50),
    "gpt-6-luna": Price(0.10, 0.01, 0.50, 0.125),
    "gpt-5.6-terra": Price(2.00, 0.20, 12.00, 2.00),
    "gpt-5.6-luna": Price(0.20, 0.02, 1.20, 0.20),
    "gpt-5.5": Price(5.00, 0.50, 30.00, 5.00),
}


def cost_usd(model: str | None, usage: Mapping[str, int]) -> float | None:
    """The cost of `usage` (keys as in a result event), or None when the model's price is not known."""
    price = PRICES.get(model or "")
    if price is None:
        return None
    total = (
        usage["input_tokens"] * price.input
        + usage["cached_input_tokens"] * price.cached_input
        + usage["cache_write_tokens"] * price.cache_write
        + usage["output_tokens"] * price.output
    )
    return round(total / MILLION, 6)
