"""Builds the sandbox template that `e2b.toml` describes: `python -m sandbox.template`, needs E2B_API_KEY."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from e2b import Template, default_build_logger
from e2b.template.main import TemplateFinal

from sandbox import archive

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"
PROGRAMS = f"/usr/lib/async-code/{archive.NAME}"  # where the Dockerfile puts them
CLOSED = "/root/runs/processes.json"  # the last thing that it writes


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxTemplate:
    """The record in `e2b.toml`."""

    template_name: str
    dockerfile: str  # relative to the project
    cpu_count: int
    memory_mb: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises TypeError when a setting is missing or unknown."""
        return cls(**tomllib.loads(path.read_text(encoding="utf-8")))

    def steps(self, context: Path) -> TemplateFinal:
        """The Dockerfile as E2B understands it, and what closes the image. Raises e2b's DockerfileSyntaxError.

        `context` is an empty folder for the files that the Dockerfile copies. They are read when the template is built.

        The start command runs once, after E2B's own scripts, which open what the Dockerfile had closed; every sandbox
        begins with what it leaves. E2B would end it as soon as the ready command succeeds.
        """
        (context / archive.NAME).write_bytes(archive.archive())
        template = Template(file_context_path=context).from_dockerfile(str(ROOT / self.dockerfile))
        return template.set_user("root").set_start_cmd(
            f"{PYTHON} -I -S {PROGRAMS} close build", f"/usr/bin/test -e {CLOSED}"
        )


def main() -> int:
    template = SandboxTemplate.read(ROOT / "e2b.toml")
    with tempfile.TemporaryDirectory() as context:
        built = Template.build(
            template.steps(Path(context)),
            template.template_name,
            cpu_count=template.cpu_count,
            memory_mb=template.memory_mb,
            on_build_logs=default_build_logger(),
        )
    print(f"Built {template.template_name}: {built.template_id}, build {built.build_id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
