"""What keys look like that nobody should commit, for a warning. Nothing is taken out because of its shape."""

from shared.domain.agents import PROFILES

# Regular expressions for Python, from the makers' documentation, November 2026. Each begins with what such a key begins
# with, so that it is looked for fast, and looks only so far ahead, so that no text makes it slow. A match counts at the
# beginning of a word only (sandbox/programs/possible_secrets.py).
KEY_SHAPES: dict[str, str] = {
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,255}\b",
    "a fine-grained GitHub token": r"github_pat_[A-Za-z0-9_]{50,255}\b",
    "a GitLab token": r"glpat-[A-Za-z0-9_-]{20,255}",
    **dict(each.key_shape for each in PROFILES.values()),
    "an AWS access key": r"A(?:KI|SI)A[A-Z0-9]{16}\b",
    "a Google API key": r"AIza[A-Za-z0-9_-]{35}\b",
    "a Slack token": r"xox[abeprs]-[A-Za-z0-9-]{16,255}",
    "a Stripe key": r"[rs]k_live_[A-Za-z0-9]{20,255}\b",
    "an npm token": r"npm_[A-Za-z0-9]{36}\b",
    "an E2B key": r"e2b_[a-f0-9]{40}\b",
    "a Supabase secret key": r"sb_secret_[A-Za-z0-9_-]{20,255}",
    "a key of this service": r"ac_[A-Za-z0-9_-]{43}\b",
    "a private key": r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY-----",
}
