"""What the build of a template leaves to its sandboxes, as far as a command or a file call can tell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The defaults are those of `Template.from_dockerfile` for a file that names no USER and no WORKDIR.

    `user` and `folder` are what envd takes where a request names none. `profile` is added to the end of /etc/profile,
    `root_bashrc` to root's .bashrc: login files run before every command of the SDK.
    """

    user: str = "user"
    folder: str = "/home/user"
    profile: str = ""
    root_bashrc: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """From a JSON object with these fields, each of them optional. Raises ValueError."""
        found = json.loads(file.read_text())
        known = {field.name for field in fields(cls)}
        if not isinstance(found, Mapping) or not all(name in known and isinstance(found[name], str) for name in found):
            raise ValueError(f"{file} may hold only texts named {', '.join(sorted(known))}")
        return cls(**found)
