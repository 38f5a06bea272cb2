"""What the models cost, whichever agent uses them: one table, as of November 2026."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shared.domain.usage import TOKENS

MILLION = 1_000_000
NO_TOKENS = dict.fromkeys(TOKENS, 0)


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    cached_input: float
    output: float
    cache_write: float


# Anthropic: measured 2026-11-23, by what Claude Code 2.1.330 charges for known numbers of tokens; writing to the cache
# (for 5 minutes) costs 1.25 times the input (Anthropic's documentation of prompt caching).
# OpenAI: standard tier, requests up to 272,000 input tokens (longer ones cost 1.5 to 2 times as much, which a run's
# totals do not show), as third parties quoted the price list between June and October 2026.
# A model that is not here has no known cost.
PRICES: dict[str, Price] = {
    "claude-fable-5-2": Price(8.00, 0.20, 40.00, 10.00),
    "claude-fable-5-1": Price(10.00, 0.25, 50.00, 12.50),
    "claude-fable-5": Price(10.00, 1.00, 50.00, 12.50),
    "claude-opus-5-5": Price(4.00, 0.20, 20.00, 5.00),
    "claude-opus-5": Price(5.00, 0.50, 25.00, 6.25),
    "claude-opus-4-8": Price(5.00, 0.50, 25.00, 6.25),
    "claude-opus-4-7": Price(5.00, 0.50, 25.00, 6.25),
    "claude-opus-4-6": Price(5.00, 0.50, 25.00, 6.25),
    "claude-opus-4-5": Price(5.00, 0.50, 25.00, 6.25),
    "claude-sonnet-5-5": Price(2.00, 0.10, 10.00, 2.50),
    "claude-sonnet-5": Price(2.00, 0.20, 10.00, 2.50),
    "claude-sonnet-4-6": Price(3.00, 0.30, 15.00, 3.75),
    "claude-sonnet-4-5": Price(3.00, 0.30, 15.00, 3.75),
    "claude-haiku-5-5": Price(0.10, 0.01, 0.50, 0.125),
    "claude-haiku-4-5": Price(1.00, 0.10, 5.00, 1.25),
    "gpt-6-astra": Price(10.00, 1.00, 50.00, 12.50),
    "gpt-6.1-sol": Price(2.00, 0.10, 10.00, 2.50),
    "gpt-6-sol": Price(2.00, 0.20, 10.00, 2.50),
    "gpt-6-luna": Price(0.10, 0.01, 0.50, 0.125),
    "gpt-5.6-terra": Price(2.00, 0.20, 12.00, 2.00),
    "gpt-5.6-luna": Price(0.20, 0.02, 1.20, 0.20),
    "gpt-5.5": Price(5.00, 0.50, 30.00, 5.00),
}
_VARIANT = re.compile(r"(-\d{8}|-\d{4}-\d\d-\d\d)?(\[1m\])?$")  # a dated name, and Claude Code's mark of a long context


def cost_usd(model: str | None, usage: Mapping[str, int]) -> float | None:
    """The cost of `usage`, or None when the model's price is not known. No tokens cost nothing, whatever the model."""
    if not any(usage.values()):
        return 0.0
    price = PRICES.get(_VARIANT.sub("", model or ""))
    if price is None:
        return None
    total = (
        usage["input_tokens"] * price.input
        + usage["cached_input_tokens"] * price.cached_input
        + usage["cache_write_tokens"] * price.cache_write
        + usage["output_tokens"] * price.output
    )
    return round(total / MILLION, 6)
