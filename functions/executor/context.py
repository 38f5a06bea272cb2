"""What one step works with, as one argument."""

from dataclasses import dataclass
from datetime import timedelta

from functions.executor.decisions import next_poll_delay_s
from functions.executor.ports import Ports
from functions.executor.step_secrets import StepSecrets
from shared.config import ExecutorSettings
from shared.domain.run import Run


@dataclass(frozen=True, slots=True)
class StepContext:
    """The claimed run, the outside world, and the secrets of the run, which are opened when they are asked for."""

    run: Run
    ports: Ports
    secrets: StepSecrets

    @classmethod
    def of(cls, run: Run, ports: Ports) -> "StepContext":
        """The context of a new step. It makes no call."""
        return cls(run, ports, StepSecrets(run, ports))

    @property
    def settings(self) -> ExecutorSettings:
        """The settings of this deployment."""
        return self.ports.settings

    @property
    def age(self) -> timedelta:
        """How long ago the run got its first sandbox; zero before."""
        return self.ports.now() - self.run.started_at if self.run.started_at else timedelta()

    @property
    def poll_delay_s(self) -> int:
        """Seconds until the run is looked at again, when nothing else is to be done."""
        return next_poll_delay_s(self.age)

    @property
    def late_by(self) -> timedelta:
        """How long ago the run's deadline was; negative or zero where it has not passed."""
        return self.ports.now() - self.run.deadline_at if self.run.deadline_at else timedelta()
