"""What E2B says of a network configuration before it takes it.

Rules put headers into requests on their way out; what they may hold of a secret is a placeholder for its value.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from local.services.e2b.rest import ApiError, field

ALL_TRAFFIC = "0.0.0.0/0"
MAX_RULE_DOMAINS = 10
MAX_HEADERS = 20
MAX_HEADER_CHARS = 2048
MAX_SECRETS_PER_DOMAIN = 32
DOMAIN = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
PLACEHOLDER = re.compile(r"\$\{e2b\.secrets\.([^}]*)\}")


def check_network(network: Mapping[str, Any], *, has_rules: bool) -> None:
    """Raises ApiError where E2B would answer 400. `has_rules`: its team may have rules."""
    allowed, denied = (field(network, name, list, []) for name in ("allowOut", "denyOut"))
    if wrong := next((entry for entry in denied if not is_address(entry)), None):
        raise ApiError(400, f"denyOut may hold only IP addresses and CIDR blocks, not {wrong!r}")
    if any(not is_address(entry) for entry in allowed) and ALL_TRAFFIC not in denied:
        raise ApiError(400, f"allowOut may hold domains only where denyOut holds {ALL_TRAFFIC}")
    rules: dict[str, Any] | None = field(network, "rules", dict, None)
    if rules is None:
        return
    if not has_rules:
        raise ApiError(400, "Network transform rules are not available for your team.")
    if len(rules) > MAX_RULE_DOMAINS:
        raise ApiError(400, f"There may be rules for at most {MAX_RULE_DOMAINS} domains")
    for domain, of_domain in rules.items():
        check_rules(domain, of_domain)


def check_rules(domain: str, rules: Any) -> None:
    if is_address(domain) or not DOMAIN.fullmatch(domain):
        raise ApiError(400, f"A rule needs a domain, not {domain!r}")
    if not isinstance(rules, list) or len(rules) > 1:
        raise ApiError(400, f"There may be one transform for {domain}")
    headers = dict(headers_of(rules))
    if len(headers) > MAX_HEADERS:
        raise ApiError(400, f"The rule for {domain} may set at most {MAX_HEADERS} headers")
    for value in headers.values():
        if not isinstance(value, str) or len(value) > MAX_HEADER_CHARS or "\r" in value or "\n" in value:
            raise ApiError(400, f"A header's value is a line of at most {MAX_HEADER_CHARS} characters")
    if len(set(secrets_in({domain: rules}))) > MAX_SECRETS_PER_DOMAIN:
        raise ApiError(400, f"The rule for {domain} may name at most {MAX_SECRETS_PER_DOMAIN} secrets")


def secrets_in(rules: Mapping[str, Any] | None) -> list[str]:
    """The names of the secrets that these rules put in."""
    values = [value for of_domain in (rules or {}).values() for _, value in headers_of(of_domain)]
    return [name for value in values for name in PLACEHOLDER.findall(value)]


def headers_of(rules: Collection[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for rule in rules:
        yield from ((rule.get("transform") or {}).get("headers") or {}).items()


def is_address(entry: object) -> bool:
    """Whether it is an IP address or a CIDR block."""
    try:
        ipaddress.ip_network(str(entry), strict=False)
    except ValueError:
        return False
    return True
