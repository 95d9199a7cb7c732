"""The tasks of a sweep: what one job trains or measures, and on which data."""

from dynfilters.experiments.jobs import profile, train, upsample
from dynfilters.experiments.jobs.task import Task

TASKS: dict[str, Task] = {"train": train.TASK, "profile": profile.TASK, "upsample": upsample.TASK}
