"""Exchanges a Supabase sign-in for the API's own tokens. The setting TOKEN_EXCHANGE says what counts as proof."""

from collections.abc import Callable
from dataclasses import dataclass

from functions.api.auth.caller import bearer_token, refuse_api_key
from functions.api.auth.tokens import Tokens
from shared.domain.errors import NotAuthenticated, NotFound
from shared.domain.ports import UserDirectory
from shared.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """The user id that a caller claims, and the possible proofs of it."""

    user_id: str
    access_token: Secret | None
    authorization: str | None
    user_agent: str


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    access: Secret
    refresh: Secret


def exchange(
    request: TokenRequest, *, mode: str, tokens: Tokens, users_of: Callable[[Secret], UserDirectory]
) -> IssuedTokens:
    """A pair of tokens. Raises NotAuthenticated without the proof that `mode` wants, Forbidden for an API key as proof,
    NotFound, Unavailable.

    strict: a Supabase access token of that user. session-bound: a live Supabase session of that user and this user
    agent, which raises the bar but proves nothing. compat: no proof, for a developer's machine.
    """
    if mode == "strict":
        _check_proof(request, tokens)
    directory = users_of(tokens.for_database(request.user_id))  # as the user: row-level security hides all others
    if mode == "session-bound" and not directory.has_live_session(request.user_agent):
        raise NotAuthenticated("This user has no active session in this browser. Sign in again.")
    if not directory.exists(request.user_id):
        raise NotFound("User not found")
    return IssuedTokens(tokens.access(request.user_id), tokens.refresh(request.user_id))


@dataclass(frozen=True, slots=True)
class RefreshedToken:
    user_id: str
    access: Secret


def refresh(token: Secret, *, tokens: Tokens, users_of: Callable[[Secret], UserDirectory]) -> RefreshedToken:
    """A new access token. Raises NotAuthenticated, also for a deleted user, Forbidden for an API key, Unavailable."""
    refuse_api_key(token)
    user_id = tokens.user_of_refresh(token)
    if not users_of(tokens.for_database(user_id)).exists(user_id):
        raise NotAuthenticated("User not found")
    return RefreshedToken(user_id, tokens.access(user_id))


def _check_proof(request: TokenRequest, tokens: Tokens) -> None:
    if not request.access_token and not request.authorization:
        raise NotAuthenticated(
            "Proof is required: send the user's Supabase access token, as bearer or as access_token in the body"
        )
    proof = request.access_token or bearer_token(request.authorization)
    refuse_api_key(proof)
    if tokens.user_of_supabase_access(proof) != request.user_id:
        raise NotAuthenticated("The Supabase access token belongs to another user")
