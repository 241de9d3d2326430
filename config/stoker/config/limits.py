"""How fast a warm plan may go, beside what its keys' loaders allow."""

from pydantic import BaseModel, ConfigDict, Field

LEAST_RATE = 0.01
MOST_RATE = 1e9
MOST_CONCURRENCY = 10**6


class Limits(BaseModel):
    """What all workers together may do at once for one plan; None: as much as the loaders allow.

    Attributes:
        rate: Keys a second that they load.
        concurrency: Batches that they load at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: float | None = Field(default=None, ge=LEAST_RATE, le=MOST_RATE, strict=True)
    concurrency: int | None = Field(default=None, ge=1, le=MOST_CONCURRENCY, strict=True)
