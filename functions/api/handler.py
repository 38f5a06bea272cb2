"""The Lambda entry of the API: an HTTP API event in, a response out."""

from typing import Any

from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.utilities.typing import LambdaContext
from mangum import Mangum

from functions.api.app import create_app
from shared.config import ApiSettings
from shared.observability import get_logger, register_secret

logger = get_logger("api")
settings = ApiSettings.from_env()
for secret in (
    settings.jwt_secret,
    settings.secrets_master_keys,
    settings.supabase_secret_key,
    settings.test_users_secret,
):
    register_secret(secret, lasting=True)
# Without lifespan="off", start and stop would run around every single request.
asgi = Mangum(create_app(settings), lifespan="off")


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP, clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """The response to one request, as API Gateway expects it."""
    return asgi(event, context)  # type: ignore[arg-type]
