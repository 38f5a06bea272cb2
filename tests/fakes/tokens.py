"""Tokens of every kind, true and false."""

import json
import time
import uuid

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

JWT_SECRET = "a secret that is long enough for HS256 and HS384"
ISSUER = "https://project.supabase.co/auth/v1"


def signed(claims, key=JWT_SECRET, algorithm="HS256", **header):
    return jwt.encode(claims, key, algorithm=algorithm, headers=header or None)


def own_claims(user, **changes):
    """What our access tokens say; a change to None leaves a claim out."""
    now = int(time.time())
    claims = {"user_id": user, "type": "access", "iat": now, "exp": now + 600, "sub": user}
    claims |= {"role": "authenticated", "aud": "authenticated"} | changes
    return {key: value for key, value in claims.items() if value is not None}


def old_claims(user, **changes):
    """What the access tokens of the old backend say."""
    return own_claims(user, **{"sub": None, "role": None, "aud": None, **changes})


def supabase_claims(user, **changes):
    """What Supabase's access tokens say."""
    session = {"iss": ISSUER, "session_id": str(uuid.uuid4()), "is_anonymous": False}
    return own_claims(user, **{"user_id": None, "type": None, **session, **changes})


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


class KeyPair:
    """A signing key of a project, and the JWKS document with its public half."""

    def __init__(self, algorithm="ES256", kid="key-1"):
        self.algorithm, self.kid = algorithm, kid
        self.private = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        kind = jwt.get_algorithm_by_name(algorithm)
        public = kind.to_jwk(self.private.public_key(), as_dict=True)
        self.jwk = public | {"kid": kid, "alg": algorithm, "use": "sig"}
        self.document = {"keys": [self.jwk]}
        self.jwks = json.dumps(self.document)

    def token(self, claims, **header):
        return signed(claims, self.private, self.algorithm, **{"kid": self.kid, **header})

    @property
    def public_pem(self):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form)


def forged(header, claims, secret):
    """A token of HMAC-SHA256 with any header and any bytes as the secret, which PyJWT would refuse to make."""
    parts = [jwt.utils.base64url_encode(json.dumps(part).encode()) for part in (header, claims)]
    signature = jwt.get_algorithm_by_name("HS256").sign(b".".join(parts), secret)
    return b".".join([*parts, jwt.utils.base64url_encode(signature)]).decode()
