"""Which access to its model an agent gets: the deployment's or its user's."""

from shared.config import ExecutorSettings, ModelAccess
from shared.domain.agents import AgentName
from shared.domain.errors import RunFailed
from shared.domain.preferences import AgentPreferences


def model_access(agent: AgentName, settings: ExecutorSettings, preferences: AgentPreferences) -> ModelAccess:
    """What the deployment gives the agent: its key, base URL and model, or nothing to users with their own access.

    The three belong together: the deployment's key must not be sent to an address of the user's.
    Raises RunFailed (`model_key_missing`) when neither has a key.
    """
    if preferences.model_access:
        return ModelAccess()
    access = settings.models[agent]
    if access.key is None:
        variable = agent.profile.key_variable
        raise RunFailed(f"Missing required environment variables: {variable}", error_code="model_key_missing")
    return access
