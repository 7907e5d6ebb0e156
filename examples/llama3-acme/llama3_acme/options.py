from pydantic import BaseModel, Field


class SimPOOptions(BaseModel, extra="forbid"):
    beta: float = Field(2.0, gt=0, description="scale of the difference of mean log-probs")
    gamma: float = Field(0.5, ge=0, description="margin by which the chosen answer must win")
