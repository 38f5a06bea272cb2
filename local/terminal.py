"""Text of agents, repositories and programs on a person's terminal: shown, never obeyed.

A terminal takes control characters as orders: clear the screen, rename the window, fill the clipboard, type an answer.
Here each becomes a picture of itself, so that a person sees that it is there.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
KEPT = "\n\t"


def _pictures() -> dict[int, str]:
    """One character for each, so that a text keeps its width."""
    c0 = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in KEPT}  # ESC is shown as ␛
    c1 = range(0x80, 0xA0)
    # They reorder what stands beside them (CVE-2021-42574) or break a line where the file has none.
    directions = (0x061C, *range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
    surrogates = range(0xD800, 0xE000)  # bytes that are no UTF-8, for example in a file name: no stream writes them
    return c0 | {0x7F: "\N{SYMBOL FOR DELETE}"} | dict.fromkeys((*c1, *directions, *surrogates), UNPRINTABLE)


PICTURES = _pictures()


def visible(text: str) -> str:
    """The text with a picture in the place of each control character but line feeds and tabs; of the same length."""
    return text.translate(PICTURES)


class _SafeConsole(Console):
    """Whatever it shows passes `render`; rich's own cursor movements and colours are not part of a text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else segment._replace(text=visible(segment.text))

    def render_str(self, text: str, **options: Any) -> Text:
        # Earlier than `render`, since rich drops some control characters from a str without a trace.
        return super().render_str(visible(text), **options)


def make_console(**options: Any) -> Console:
    """A console for the programs of `local`: lines are never cut, `:names:` are no emoji, control characters are shown.

    `options` are rich's.
    """
    return _SafeConsole(**{"highlight": False, "soft_wrap": True, "emoji": False} | options)
