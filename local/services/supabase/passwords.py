"""Password hashes in one text column."""

import asyncio
import base64
import hashlib
import hmac
import secrets

# OWASP's password storage cheat sheet names N=2^14, r=8, p=5 among its choices for scrypt; p=1 here keeps a sign-in on
# a laptop near 50 ms, and the passwords are those of a disposable database.
COST, BLOCK_SIZE, PARALLELISM = 2**14, 8, 1
SALT_BYTES = 16


async def hashed(password: str) -> str:
    """`scrypt$<salt>$<hash>`, both base64."""
    salt = secrets.token_bytes(SALT_BYTES)
    return "$".join(("scrypt", _text(salt), _text(await _scrypt(password, salt))))


async def matches(password: str, stored: str | None) -> bool:
    """Whether this is the password; False also for a user without one."""
    scheme, _, rest = (stored or "").partition("$")
    salt, _, expected = rest.partition("$")
    if scheme != "scrypt":
        return False
    return hmac.compare_digest(_text(await _scrypt(password, base64.b64decode(salt))), expected)


async def _scrypt(password: str, salt: bytes) -> bytes:
    return await asyncio.to_thread(hashlib.scrypt, password.encode(), salt=salt, n=COST, r=BLOCK_SIZE, p=PARALLELISM)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
