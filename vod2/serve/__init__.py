"""A web server for trying a detector: videos are uploaded, detected one after the other, and shown as reports.

It knows no model: what detects in a video is given to it (`Worker`). Only the standard library is used.
"""

from vod2.serve.access import Access, is_loopback
from vod2.serve.jobs import Job, JobStore, RefusedError, ServerLimits
from vod2.serve.server import DetectionServer
from vod2.serve.worker import RESULTS, CancelledError, Watch, Worker

__all__ = [
    "RESULTS",
    "Access",
    "CancelledError",
    "DetectionServer",
    "Job",
    "JobStore",
    "RefusedError",
    "ServerLimits",
    "Watch",
    "Worker",
    "is_loopback",
]
