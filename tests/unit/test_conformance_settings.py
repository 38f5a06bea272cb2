"""What `make conformance` says before anything starts, and which server the tests use."""

import stat

from local.stack import STAND_IN
from tests.conformance.__main__ import problems_with_envd, problems_with_image
from tests.conformance.settings import server_of


def program(folder, text):
    path = folder / "envd"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_an_envd_the_tests_use_the_stand_in():
    assert server_of({}) == STAND_IN
    assert server_of({"CONFORMANCE_ENVD": "", "CONFORMANCE_IMAGE": "/image"}) == STAND_IN


def test_with_one_they_use_the_rig_and_what_was_chosen_for_it():
    chosen = {"CONFORMANCE_ENVD": "/envd", "CONFORMANCE_IMAGE": "/image", "ENVD": "of another program"}

    assert server_of(chosen) == ("tests.conformance.server", "--envd", "/envd", "--image", "/image")


def test_an_envd_that_is_missing_or_does_not_run_is_said_in_a_sentence(tmp_path):
    assert problems_with_envd(None) == ["No envd is named: make conformance ENVD=/path/to/envd."]
    assert problems_with_envd(str(tmp_path)) == [f"{tmp_path} is not a program."]
    assert "does not run here" in problems_with_envd(program(tmp_path, "#!/bin/sh\nexit 1\n"))[0]
    assert problems_with_envd(program(tmp_path, "#!/bin/sh\necho 0.6.13\n")) == []


def test_each_program_that_an_image_lacks_is_named(tmp_path):
    there = ("bin/sh", "bin/bash", "usr/bin/env", "usr/bin/git", "usr/bin/sudo", "usr/bin/ssh", "usr/bin/socat")
    for path in there:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to("/nowhere/here")

    assert problems_with_image(tmp_path) == [
        f"The image {tmp_path} has no /usr/bin/python3.",
        f"The image {tmp_path} has no /usr/sbin/sshd, which E2B installs into each image: name another IMAGE.",
    ]
    assert problems_with_image(tmp_path / "none") == [f"{tmp_path}/none is not a folder with a root file system."]
