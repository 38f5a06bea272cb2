"""GitHub's REST API on a laptop, as far as the backend uses it, over bare git repositories.

    python -m local.services.github --root R --port P

serves `R/<owner>/<name>.git`, the folder that `local.services.git.server` serves clones from: blobs, trees, commits and
branches are git's own. Only pull requests are GitHub's invention: `R/<owner>/<name>.pulls.json` has them.
A repository whose folder holds a file `required-token` is private: for others than that token it does not exist.
"""

from local.services.github.accounts import Account
from local.services.github.app import create_app

__all__ = ["Account", "create_app"]
