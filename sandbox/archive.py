"""The programs as one archive that Python can run: what the executor uploads per run, and the image has to be closed.

They are shipped beside the functions, so that an old sandbox image never meets a newer executor.
"""

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sandbox" / "programs"
NAME = "programs.pyz"


@cache
def archive() -> bytes:
    """The archive: the package, and at the top the `__main__.py` that Python starts.

    The same sources always make the same bytes. Nothing is compressed, so that Python needs no zlib to read it.
    """
    sources = (PACKAGE.parent / "__init__.py", *PACKAGE.glob("*.py"))
    files = {path.relative_to(ROOT).as_posix(): path for path in sources}
    files["__main__.py"] = PACKAGE / "__main__.py"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(files):
            target.writestr(zipfile.ZipInfo(name), files[name].read_bytes())
    return made.getvalue()


@cache
def digest() -> str:
    """The SHA-256 of the archive: what a JobReport calls `programs` when it was made by these programs."""
    return hashlib.sha256(archive()).hexdigest()
