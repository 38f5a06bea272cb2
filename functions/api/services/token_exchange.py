"""Our tokens for somebody who has signed in with Supabase. What counts as proof is the setting TOKEN_EXCHANGE."""

from collections.abc import Callable
from dataclasses import dataclass

from functions.api.auth import bearer_token, refuse_api_key
from functions.api.tokens import Tokens
from shared.domain.errors import NotAuthenticated, NotFound
from shared.domain.ports import UserDirectory
from shared.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who somebody says they are, and what they bring along to prove it."""

    user_id: str
    access_token: Secret | None
    authorization: str | None
    user_agent: str


@dataclass(frozen=True, slots=True)
class Issued:
    access: Secret
    refresh: Secret


def exchange(asked: Asked, *, mode: str, tokens: Tokens, users_of: Callable[[Secret], UserDirectory]) -> Issued:
    """A pair of tokens. Raises NotAuthenticated without the proof that `mode` wants, Forbidden for an API key as proof,
    NotFound, Unavailable.

    strict: a Supabase access token of that user. session-bound: a live Supabase session of that user and this user
    agent, which raises the bar and no more. compat: nothing, for one's own machine.
    """
    if mode == "strict":
        _check_proof(asked, tokens)
    directory = users_of(tokens.for_database(asked.user_id))  # as the user: the database lets nobody look at others
    if mode == "session-bound" and not directory.has_live_session(asked.user_agent):
        raise NotAuthenticated("There is no live session of this user in this browser. Sign in again.")
    if not directory.exists(asked.user_id):
        raise NotFound("User not found")
    return Issued(tokens.access(asked.user_id), tokens.refresh(asked.user_id))


@dataclass(frozen=True, slots=True)
class Refreshed:
    user_id: str
    access: Secret


def refresh(token: Secret, *, tokens: Tokens, users_of: Callable[[Secret], UserDirectory]) -> Refreshed:
    """A new access token. Raises NotAuthenticated, also for a deleted user, Forbidden for an API key, Unavailable."""
    refuse_api_key(token)
    user_id = tokens.user_of_refresh(token)
    if not users_of(tokens.for_database(user_id)).exists(user_id):
        raise NotAuthenticated("User not found")
    return Refreshed(user_id, tokens.access(user_id))


def _check_proof(asked: Asked, tokens: Tokens) -> None:
    if not asked.access_token and not asked.authorization:
        raise NotAuthenticated(
            "Proof is required: send the user's Supabase access token, as bearer or as access_token in the body"
        )
    proof = asked.access_token or bearer_token(asked.authorization)
    refuse_api_key(proof)
    if tokens.user_of_supabase_access(proof) != asked.user_id:
        raise NotAuthenticated("The Supabase access token belongs to another user")
