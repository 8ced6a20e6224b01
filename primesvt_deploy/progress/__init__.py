"""Progress of long work: what it reports to, how long it will take, and how that is shown."""

from primesvt_deploy.progress.protocol import (
    AUTOMATIC,
    SILENT,
    PlannedStage,
    Progress,
    Silent,
    TimedProgress,
)

__all__ = ["AUTOMATIC", "SILENT", "PlannedStage", "Progress", "Silent", "TimedProgress"]
