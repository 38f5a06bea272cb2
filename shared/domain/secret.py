"""A value that must never be printed by accident."""

from dataclasses import dataclass


class Secret:
    """Holds a secret text. It prints as `***`; only `reveal()` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("A Secret cannot be pickled.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFor:
    """Whose secret it is and which: bound to the ciphertext, so that a copied row cannot be opened for another."""

    user_id: str
    kind: str
    id: str

    def as_context(self) -> dict[str, str]:
        """The same three facts as the text map that KMS calls an encryption context."""
        return {"user_id": self.user_id, "kind": self.kind, "id": self.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A sealed secret as it is stored. `ciphertext` is base64; `hint` shows the last characters of a long secret."""

    ciphertext: str
    key_id: str
    alg: str


@dataclass(frozen=True, slots=True)
class SealedToken:
    """A git token that only the executor can open; `hint` is how its owner recognises it."""

    id: str
    sealed: Sealed
    hint: str | None


def hint_of(secret: Secret) -> str | None:
    """The last four characters, for a person to recognise a token by; None when that would give much of it away."""
    value = secret.reveal()
    return value[-4:] if len(value) >= 20 else None
