"""Tokens, whose they are and what they may do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The owner of a token. `scopes` makes it a classic token; without, it is a fine-grained one."""

    login: str
    scopes: Sequence[str] | None = None
    can_write: bool = True
    is_admin: bool = False

    @property
    def may_write(self) -> bool:
        """Whether the owner may, and the token was given the scope for it."""
        has_scope = self.scopes is None or not {"repo", "public_repo"}.isdisjoint(self.scopes)
        return self.can_write and has_scope


Accounts = Mapping[str, Account]  # by token

DEFAULT_ACCOUNTS: Accounts = {
    "tok": Account(login="octo", scopes=("repo",)),
    "tok_ro": Account(login="octo", can_write=False),
}


def read_accounts(path: Path) -> Accounts:
    """From `{"<token>": {"login": …}}`, with more of Account's fields where they differ from its defaults."""
    return {token: Account(**facts) for token, facts in json.loads(path.read_text(encoding="utf-8")).items()}
