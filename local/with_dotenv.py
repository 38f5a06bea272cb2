"""`python -m local.with_dotenv MODULE [ARGUMENT...]`: run a module with the variables of this project's .env file.

What the environment has already stays.
"""

import os
import runpy
import sys

from local.settings import SettingsError, read_dotenv


def main() -> None:
    module, *arguments = sys.argv[1:]
    try:
        found = read_dotenv()
    except SettingsError as error:
        sys.exit(str(error))
    os.environ.update({name: value for name, value in found.items() if name not in os.environ})
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
