"""What keys look like that nobody should commit, for a warning. Nothing is taken out because of its shape."""

# Regular expressions for Python, without groups of their own; from the makers' documentation, November 2026. Each ends
# where a word ends, so that it is found whole and names no part of something longer.
_ALNUM = "[A-Za-z0-9]"
KEY_SHAPES: dict[str, str] = {
    "a GitHub token": rf"\b(?:gh[pousr]_{_ALNUM}{{36,}}|github_pat_[A-Za-z0-9_]{{50,}})\b",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an Anthropic key": r"\bsk-ant-[A-Za-z0-9_-]{24,}",
    "an OpenAI key": r"\bsk-(?!ant-)(?:proj-|svcacct-|admin-)?(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{32,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{16,}",
    "a Stripe key": rf"\b[rs]k_live_{_ALNUM}{{20,}}\b",
    "an npm token": rf"\bnpm_{_ALNUM}{{36}}\b",
    "an E2B key": r"\be2b_[a-f0-9]{40}\b",
    "a Supabase secret key": r"\bsb_secret_[A-Za-z0-9_-]{20,}",
    "a key of this service": r"\bac_[A-Za-z0-9_-]{43}\b",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----",
}
