"""`collcomm chaos`: runs peers of any program, hurts them by a seeded schedule, and measures how they bear it."""

from .relay import Relay
from .report import summarise
from .runner import Run, Settings
from .schedule import KINDS, Fault, make_schedule, read_schedule, write_schedule

__all__ = [
    "KINDS",
    "Fault",
    "Relay",
    "Run",
    "Settings",
    "make_schedule",
    "read_schedule",
    "summarise",
    "write_schedule",
]
