"""The demo's repository: three commits of a small Python library, so that a run has something real to read.

`python -m unittest` passes in it. What a visitor may ask an agent for is on the README's list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True, slots=True)
class Commit:
    """`files` maps paths to their whole new text; `date` is in git's format."""

    message: str
    date: str
    files: Mapping[str, str]
    name: str = "Ada Example"
    email: str = "ada@example.com"


def _text(indented: str) -> str:
    return dedent(indented).lstrip("\n")


README = """
    # pocketbook

    A tiny ledger for pocket money. No dependencies.

    ```python
    from pocketbook import Ledger

    ledger = Ledger()
    ledger.earn("washing the car", 500)
    ledger.spend("ice cream", 180)
    ledger.balance  # 320, in cents
    ```

    Run the tests with `python -m unittest`.
"""

WISHES = """
    ## Wishes

    - a monthly summary: earned, spent, saved
    - reading and writing CSV files
    - refusing to spend more than there is
"""

GITIGNORE = """
    __pycache__/
    *.pyc
    .venv/
    dist/
"""

PYPROJECT = """
    [project]
    name = "pocketbook"
    version = "0.1.0"
    description = "A tiny ledger for pocket money."
    requires-python = ">=3.9"
"""

LEDGER = '''
    """Entries and what they add up to. Amounts are whole cents."""

    from dataclasses import dataclass, field


    @dataclass(frozen=True)
    class Entry:
        text: str
        cents: int  # negative when money was spent


    @dataclass
    class Ledger:
        entries: list = field(default_factory=list)

        def earn(self, text, cents):
            """Add money. Raises ValueError unless `cents` is positive."""
            self._add(text, cents)

        def spend(self, text, cents):
            """Take money out. Raises ValueError unless `cents` is positive."""
            self._add(text, cents, sign=-1)

        @property
        def balance(self):
            """What is left, in cents."""
            return sum(entry.cents for entry in self.entries)

        def _add(self, text, cents, sign=1):
            if cents <= 0:
                raise ValueError("an amount must be positive")
            self.entries.append(Entry(text, sign * cents))
'''

MONEY = '''
    """Amounts as people write them."""


    def format_cents(cents):
        """Return `12.50` for 1250 and `-0.05` for -5."""
        sign = "-" if cents < 0 else ""
        whole, rest = divmod(abs(cents), 100)
        return f"{sign}{whole}.{rest:02d}"
'''

LEDGER_TESTS = """
    import unittest

    from pocketbook import Ledger


    class LedgerTest(unittest.TestCase):
        def test_a_new_ledger_is_empty(self):
            self.assertEqual(Ledger().balance, 0)

        def test_spending_lowers_the_balance(self):
            ledger = Ledger()
            ledger.earn("washing the car", 500)
            ledger.spend("ice cream", 180)
            self.assertEqual(ledger.balance, 320)

        def test_amounts_must_be_positive(self):
            for amount in (0, -5):
                with self.assertRaises(ValueError):
                    Ledger().earn("nothing", amount)
"""

MONEY_TESTS = """
    import unittest

    from pocketbook import format_cents


    class FormatCentsTest(unittest.TestCase):
        def test_two_digits_follow_the_point(self):
            self.assertEqual(format_cents(1250), "12.50")
            self.assertEqual(format_cents(5), "0.05")

        def test_the_sign_stands_in_front(self):
            self.assertEqual(format_cents(-5), "-0.05")
"""

COMMITS = (
    Commit(
        "Start a ledger for pocket money",
        "2026-01-05T09:00:00+00:00",
        {
            "README.md": _text(README),
            ".gitignore": _text(GITIGNORE),
            "pyproject.toml": _text(PYPROJECT),
            "pocketbook/__init__.py": "from pocketbook.ledger import Entry, Ledger\n",
            "pocketbook/ledger.py": _text(LEDGER),
        },
    ),
    Commit(
        "Test the ledger",
        "2026-01-06T16:30:00+00:00",
        {"tests/__init__.py": "", "tests/test_ledger.py": _text(LEDGER_TESTS)},
    ),
    Commit(
        "Format amounts, and write down what is missing",
        "2026-01-09T18:15:00+00:00",
        {
            "README.md": _text(README) + "\n" + _text(WISHES),
            "pocketbook/__init__.py": (
                "from pocketbook.ledger import Entry, Ledger\nfrom pocketbook.money import format_cents\n"
            ),
            "pocketbook/money.py": _text(MONEY),
            "tests/test_money.py": _text(MONEY_TESTS),
        },
    ),
)
