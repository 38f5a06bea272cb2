"""The API on fakes."""

import uuid
from dataclasses import dataclass, field, replace

import jwt
import pytest
from mangum import Mangum

from functions.api.app import create_app
from functions.api.wiring import Ports
from shared.adapters.local_box import LocalBox
from shared.config import ApiSettings
from shared.domain.pull_request import RunChanges
from tests.fakes.auth_admin import FakeAuthAdmin, FakeTestUserDirectory
from tests.fakes.change_store import FakeChangeStore
from tests.fakes.github import FakeGitHub
from tests.fakes.lambda_client import LambdaClient
from tests.fakes.project_store import FakeProjectStore
from tests.fakes.run_queue import FakeRunQueue
from tests.fakes.task_store import FakeDatabase
from tests.fakes.tokens import JWT_SECRET, bearer, own_claims, signed
from tests.fakes.usage_store import FakeLedger
from tests.fakes.user_directory import FakeUsers

ENVIRONMENT = {
    "ENVIRONMENT": "development",
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_key",
    "JWT_SECRET": JWT_SECRET,
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
}


def user_of(token):
    """Whom the database would take the bearer for; it checks nothing here, the API has."""
    return jwt.decode(token.reveal(), options={"verify_signature": False})["sub"]


@dataclass
class World:
    """Everything around the API, to arrange and to look at."""

    settings: ApiSettings
    database: FakeDatabase
    users: FakeUsers
    queue: FakeRunQueue
    box: LocalBox
    github: FakeGitHub = field(default_factory=FakeGitHub)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    changes: dict[int, RunChanges] = field(default_factory=dict)  # by the task's id
    files: dict[int, list[dict]] = field(default_factory=dict)  # likewise

    def __post_init__(self):
        self.auth_admin = FakeAuthAdmin(self.users)

    def client(self, **settings):
        """An app of its own with some settings changed."""
        ports = Ports(
            tasks_of=lambda token: self.database.store_of(user_of(token)),
            projects_of=lambda token: FakeProjectStore(self.database, user_of(token)),
            usages_of=lambda token: self.ledger.store_of(user_of(token)),
            users_of=lambda token: self.users.directory_of(user_of(token)),
            profile_of=lambda token: self.users.profile_of(user_of(token)),
            api_keys_of=lambda token: self.users.api_keys_of(user_of(token)),
            api_key_directory=self.users.api_key_directory,
            auth_admin=lambda: self.auth_admin,
            test_users=lambda: FakeTestUserDirectory(self.users),
            changes_of=lambda token: FakeChangeStore(self.database, self.changes, user_of(token), self.files),
            github=self.github.seen_with,
            queue=lambda: self.queue,
            box=lambda: self.box,
        )
        app = create_app(replace(self.settings, **settings), ports)
        return LambdaClient(Mangum(app, lifespan="off"))

    def new_user(self):
        user_id = str(uuid.uuid4())
        self.users.existing.add(user_id)
        return user_id


@pytest.fixture
def world():
    settings = ApiSettings.from_env(ENVIRONMENT)
    box = LocalBox.from_ring(settings.secrets_master_keys)
    return World(settings, FakeDatabase(), FakeUsers(), FakeRunQueue(), box)


@pytest.fixture
def client(world):
    return world.client()


@pytest.fixture
def user(world):
    return world.new_user()


@pytest.fixture
def as_user(user):
    """The headers of a signed-in user."""
    return bearer(signed(own_claims(user)))
