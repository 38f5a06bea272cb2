"""Tokens of every kind, true and false."""

import time
import uuid

import jwt

JWT_SECRET = "a secret that is long enough for HS256 and HS384"


def signed(claims, key=JWT_SECRET, algorithm="HS256", **header):
    return jwt.encode(claims, key, algorithm=algorithm, headers=header or None)


def own_claims(user, **changes):
    """What our access tokens say; a change to None leaves a claim out."""
    now = int(time.time())
    claims = {"user_id": user, "type": "access", "iat": now, "exp": now + 600, "sub": user}
    claims |= {"role": "authenticated", "aud": "authenticated"} | changes
    return {key: value for key, value in claims.items() if value is not None}


def supabase_claims(user, **changes):
    """What Supabase's access tokens say."""
    return own_claims(user, **{"user_id": None, "type": None, "session_id": str(uuid.uuid4()), **changes})


def bearer(token):
    return {"Authorization": f"Bearer {token}"}
