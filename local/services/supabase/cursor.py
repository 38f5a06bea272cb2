"""Reads names, quoted texts and brackets out of a piece of a URL."""

from dataclasses import dataclass

BARE_NAME_ENDS = ',:()!"'


class GrammarError(Exception):
    """The URL does not follow the grammar; the text says where. `code` is PostgREST's."""

    code = "PGRST100"


@dataclass(slots=True)
class Cursor:
    """A place in a text, and how to move on from it. Raises GrammarError where the text is not what was expected."""

    text: str
    at: int = 0

    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def remainder(self) -> str:
        start, self.at = self.at, len(self.text)
        return self.text[start:]

    def sees(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def take(self, token: str) -> bool:
        found = self.sees(token)
        if found:
            self.at += len(token)
        return found

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise self._error(f"expected '{token}'")

    def expect_end(self) -> None:
        if not self.at_end():
            raise self._error("unexpected text")

    def skip_spaces(self) -> None:
        while self.take(" "):
            continue

    def name(self, ends: str = BARE_NAME_ENDS) -> str:
        """A quoted name, or a bare one up to a character of `ends` or an arrow."""
        self.skip_spaces()
        if self.sees('"'):
            return self.quoted()
        start = self.at
        while not self.at_end() and self.text[self.at] not in ends and not self.sees("->"):
            self.at += 1
        name = self.text[start : self.at].strip()
        if not name:
            raise self._error("expected a name")
        return name

    def quoted(self) -> str:
        """The text between double quotes, in which a backslash makes the next character plain."""
        self.expect('"')
        characters = []
        while not self.sees('"'):
            self.take("\\")
            if self.at_end():
                raise self._error('expected a closing "')
            characters.append(self.text[self.at])
            self.at += 1
        self.expect('"')
        return "".join(characters)

    def until(self, ends: str) -> str:
        start = self.at
        while not self.at_end() and self.text[self.at] not in ends:
            self.at += 1
        return self.text[start : self.at]

    def balanced(self, opening: str, closing: str) -> str:
        """From an opening bracket to the closing one that belongs to it, quoted brackets not counted."""
        start, depth = self.at, 0
        while not self.at_end():
            if self.sees('"'):
                self.quoted()
                continue
            depth += self.sees(opening) - self.sees(closing)
            self.at += 1
            if depth == 0:
                return self.text[start : self.at]
        raise self._error(f"expected '{closing}'")

    def _error(self, problem: str) -> GrammarError:
        return GrammarError(f"failed to parse ({self.text}): {problem} at character {self.at + 1}")
