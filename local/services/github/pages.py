"""What a browser gets of a repository and of a pull request: plain HTML, without a script."""

import base64
import hashlib
import html
from dataclasses import dataclass

from local.services.github.pulls import Pull, Pulls
from local.services.github.repository import Commit, Repository
from local.terminal import visible

ROWS = 50  # of each table
DIFF_BYTES = 300_000

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; --line: #8884; --soft: #8881; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
a { color: light-dark(#0550ae, #79b8ff); text-decoration: none; } a:hover { text-decoration: underline; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; overflow-x: auto; }
.text { white-space: pre-wrap; font: inherit; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; border: 1px solid var(--line); }
td { border-top: 1px solid var(--line); padding: .4rem .75rem; vertical-align: top; }
td:last-child { text-align: right; white-space: nowrap; }
.soft { color: #888; }
.badge { border-radius: 1rem; color: #fff; font-size: .8rem; padding: .15rem .7rem; margin-right: .5rem; }
.open { background: #1a7f37; } .merged { background: #8250df; } .closed { background: #cf222e; }
.draft { background: #6e7781; }
.diff { padding: 0; } .diff span { display: block; min-height: 1.5em; padding: 0 .75rem; min-width: max-content; }
.file { background: var(--soft); font-weight: 600; } .hunk { color: #888; background: var(--soft); }
.added { background: #2da44e26; } .removed { background: #f8514926; }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode("ascii")
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A repository, the path of its page and the URL to clone it from."""

    repository: Repository
    pulls: Pulls
    path: str
    url: str


def repository_page(shown: Shown) -> str:
    """Pull requests, branches and the last commits."""
    repository = shown.repository
    current = repository.default_branch
    head = repository.head(current)
    commits = repository.history(head, ROWS) if head else []
    branches = repository.branches()
    pulls = shown.pulls.all()
    return _page(
        shown.path.strip("/"),
        f"<h1>{_text(shown.path.strip('/'))}</h1>",
        f"<pre>git clone {_text(shown.url)}</pre>",
        "<h2>Pull requests</h2>",
        _table([_pull_row(shown, pull) for pull in pulls[:ROWS]], "There is none yet."),
        _more(len(pulls) - ROWS),
        "<h2>Branches</h2>",
        _table([_branch_row(repository, branch, current) for branch in branches[:ROWS]], "There is none yet."),
        _more(len(branches) - ROWS),
        f"<h2>Last commits of {_text(current)}</h2>",
        _table([_commit_row(commit) for commit in commits], "There is none yet."),
    )


def pull_page(shown: Shown, number: str) -> str | None:
    """What a pull request is for and what it changes; None where there is none of this number."""
    pull = next((pull for pull in shown.pulls.all() if str(pull.number) == number), None)
    if pull is None:
        return None
    return _page(
        f"{pull.title} · Pull request {pull.number}",
        f'<p><a href="{_text(shown.path)}">{_text(shown.path.strip("/"))}</a></p>',
        f'<h1>{_text(pull.title)} <span class="soft">#{pull.number}</span></h1>',
        f"<p>{_badge(pull)}{_text(pull.login)}: <code>{_text(pull.branch)}</code> into "
        f"<code>{_text(pull.target)}</code></p>",
        f'<pre class="text">{_text(pull.body)}</pre>' if pull.body else "",
        *_changes(shown.repository, pull),
    )


def _changes(repository: Repository, pull: Pull) -> list[str]:
    """Its commits and its diff, as far as the repository still has them."""
    tips = {name: repository.head(name) for name in (pull.branch, pull.target)}
    kept = repository.pull_head(pull.number)
    head = (tips[pull.branch] if pull.state == "open" else None) or kept or tips[pull.branch]
    merge = pull.merge_commit and repository.commit(pull.merge_commit)
    onto = merge.parents[0] if merge else tips[pull.target]
    rows = [[f"<code>{_text(name)}</code>", _id(tip) if tip else "is deleted"] for name, tip in tips.items()]
    if pull.merge_commit:
        rows.append(["merge commit", _id(pull.merge_commit)])
    parts = ["<h2>Branches</h2>", _table(rows)]
    base = head and onto and repository.merge_base(onto, head)
    if not (head and onto and base):
        return [*parts, "<p>The commits that it is made of are gone, so there is nothing to compare.</p>"]
    return [
        *parts,
        "<h2>Commits</h2>",
        _table([_commit_row(commit) for commit in repository.commits(onto, head, ROWS)]),
        "<h2>Changes</h2>",
        _diff(repository.diff(base, head, DIFF_BYTES + 1), pull.number),
    ]


def _diff(found: bytes, number: int) -> str:
    if not found:
        return "<p>No file is changed.</p>"
    lines = found[:DIFF_BYTES].decode(errors="replace").removesuffix("\n").split("\n")
    spans, in_header = [], True
    for line in lines:
        in_header = line.startswith("diff --git ") or (in_header and not line.startswith("@@"))
        spans.append(f'<span class="{_kind(line, in_header)}">{_text(line)}</span>')
    cut = (
        f"<p>The diff is longer than {DIFF_BYTES // 1000} kB; the rest is not shown. In a clone, "
        f"<code>git fetch origin pull/{number}/head &amp;&amp; git log -p FETCH_HEAD</code> shows all of it.</p>"
    )
    return f'<pre class="diff">{"".join(spans)}</pre>' + (cut if len(found) > DIFF_BYTES else "")


def _kind(line: str, in_header: bool) -> str:
    if in_header:
        return "file" if line.startswith("diff --git ") else "soft"
    return {"+": "added", "-": "removed", "@": "hunk"}.get(line[:1], "")


def _pull_row(shown: Shown, pull: Pull) -> list[str]:
    link = f'<a href="{_text(shown.path)}/pull/{pull.number}">{_text(pull.title)}</a>'
    return [f'{link} <span class="soft">#{pull.number}, {_text(pull.branch)}</span>', _badge(pull)]


def _branch_row(repository: Repository, branch: str, current: str) -> list[str]:
    tip = repository.head(branch)
    return [
        f"<code>{_text(branch)}</code>" + (' <span class="soft">current</span>' if branch == current else ""),
        _id(tip or ""),
    ]


def _commit_row(commit: Commit) -> list[str]:
    subject = commit.message.split("\n")[0] or "(no message)"
    return [f'{_text(subject)} <span class="soft">{_text(commit.author.name)}</span>', _id(commit.id)]


def _badge(pull: Pull) -> str:
    state = "merged" if pull.merge_commit else "draft" if pull.draft and pull.state == "open" else pull.state
    return f'<span class="badge {_text(state)}">{_text(state)}</span>'


def _id(commit_id: str) -> str:
    return f"<code>{_text(commit_id[:12])}</code>"


def _table(rows: list[list[str]], none: str = "") -> str:
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>" if rows else f"<p>{none}</p>"


def _more(count: int) -> str:
    return f'<p class="soft">{count} more are not shown.</p>' if count > 0 else ""


def _text(text: str) -> str:
    return html.escape(visible(text))


def _page(title: str, *parts: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
