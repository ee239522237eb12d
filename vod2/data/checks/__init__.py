"""What is broken in a dataset, all of it, before a training finds the first."""

from vod2.data.checks.findings import (
    ERROR,
    WARNING,
    CheckedFrame,
    CheckedObject,
    CheckedVideo,
    CheckFormat,
    CheckResult,
    Finding,
    finding_of,
)
from vod2.data.checks.formats import FORMATS, open_source
from vod2.data.checks.labels import LabelFormat
from vod2.data.checks.report import table, write_contact_sheet, write_report
from vod2.data.checks.walk import check_dataset

__all__ = [
    "ERROR",
    "FORMATS",
    "WARNING",
    "CheckResult",
    "Finding",
    "check_dataset",
    "open_source",
    "table",
    "write_contact_sheet",
    "write_report",
    "CheckedFrame",
    "CheckedObject",
    "CheckedVideo",
    "finding_of",
    "CheckFormat",
    "LabelFormat",
]
