"""Errors whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake that the user can mend: a file that is missing, a key that does not exist, settings that disagree.

    Its message is one sentence that names the value, says what was expected and what to do. The command line tools
    print that sentence without a traceback (`vod2.engine.cli.run`).
    """


class VideoError(UserError):
    """A video, or a folder of frames, that cannot be read or written."""
