"""The programs of the sandbox as they lie in a run's folder there, and how they are started."""

import io
import sys
import zipfile

from sandbox import archive


def install(run, **instead):
    """Write the archive into the run's folder; its path. `instead` are texts of modules in the place of ours."""
    path = run / archive.NAME
    path.write_bytes(with_modules(archive.archive(), instead))
    return path


def with_modules(data, texts):
    """The archive with other texts in these modules of the package."""
    changed = {f"sandbox/programs/{name}.py": text for name, text in texts.items()}
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            target.writestr(name, changed.pop(name, None) or source.read(name))
    assert not changed, "there is no such module"
    return made.getvalue()


def command(path, program, *arguments):
    """The command line that starts a program of the archive, as the executor does."""
    return [sys.executable, "-I", "-S", path, program, *arguments]
