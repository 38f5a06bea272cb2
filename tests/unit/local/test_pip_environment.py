"""What pip may see of the person's environment."""

import pytest

from local.pip_environment import _configured, pip_environment

REACHING = {
    "PIP_INDEX_URL": "https://user:secret@index.example/simple",
    "PIP_EXTRA_INDEX_URL": "https://a.example https://b.example",
    "PIP_TRUSTED_HOST": "index.example",
    "PIP_PROXY": "http://proxy.example:3128",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_NO_INDEX": "1",
    "PIP_CACHE_DIR": "/cache",
    "PIP_TIMEOUT": "60",
    "PIP_DEFAULT_TIMEOUT": "60",
    "PIP_RETRIES": "9",
    "PIP_CONFIG_FILE": "/etc/company-pip.conf",
    "https_proxy": "http://proxy.example:3128",
    "NO_PROXY": "index.example",
}


def test_what_leads_to_a_package_index_stays():
    assert pip_environment(REACHING) == REACHING


@pytest.mark.parametrize(
    "name",
    [
        *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_NO_DEPS", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN"),
        *("PIP_PLATFORM", "PIP_CONSTRAINT", "PIP_REQUIRE_HASHES", "PIP_PRE", "PIP_IGNORE_INSTALLED", "PIP_PYTHON"),
        *("PIP_ONLY_BINARY", "PIP_BREAK_SYSTEM_PACKAGES", "PIP_AN_OPTION_OF_THE_FUTURE", "PIPENV_PIPFILE"),
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSAFEPATH", "VIRTUAL_ENV", "ANTHROPIC_API_KEY"),
    ],
)
def test_anything_else_is_left_out(name):
    assert pip_environment({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("name", ["PIP_CERT", "PIP_CLIENT_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_certificates_are_named_only_where_they_exist(tmp_path, name):
    assert pip_environment({name: str(tmp_path)}) == {name: str(tmp_path)}
    assert pip_environment({name: str(tmp_path / "none")}) == {}


def test_an_empty_variable_says_nothing():
    assert pip_environment({"PIP_INDEX_URL": "", "https_proxy": ""}) == {}


def test_configuration_files_are_read_as_pip_does():
    listing = """\
:env:.user='1'
global.find-links='\\nhttps://a.example/simple\\nhttps://b.example/simple'
global.proxy='https://global.example'
global.user='true'
install.proxy='https://install.example'
install.target='/elsewhere'
download.proxy='https://download.example'
"""
    assert pip_environment(_configured(listing)) == {
        "PIP_FIND_LINKS": "https://a.example/simple\nhttps://b.example/simple",
        "PIP_PROXY": "https://install.example",
    }
