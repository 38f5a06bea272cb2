"""The server of the rig, for the unmodified e2b SDK: `python -m tests.conformance.server --envd PATH --root DIR`.

It takes the options of `python -m local.services.e2b` and has the same control plane; behind it are machines with
a real envd. Only root on Linux can run it.
"""

import argparse
from pathlib import Path

from local.services.e2b.__main__ import add_arguments, api_key, run, template_of
from local.services.e2b.journal import Journal
from local.services.e2b.server import application
from tests.conformance.fleet import EnvdFleet
from tests.conformance.proxy import EnvdProxy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.server", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--envd", type=Path, required=True, help="the envd binary")
    parser.add_argument("--image", type=Path, default=Path("/"), help="a root file system; by default this machine's")
    options = parser.parse_args()
    fleet = EnvdFleet(
        options.root,
        options.extra_path,
        envd=options.envd,
        base=options.image.resolve(),
        template=template_of(options),
        journal=Journal(on=options.injection),
    )
    app = application(fleet, api_key(), EnvdProxy(fleet).routes(), injection=options.injection)
    run(app, options)


if __name__ == "__main__":
    main()
