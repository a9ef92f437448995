"""The one exception for what a caller got wrong."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used, told in one sentence: case, expected, got, remedy.

    The message is shown to people as it stands, so `case` names the file, subject or parameter at fault.
    """

    def __init__(self, case: object, expected: str, got: str, remedy: str) -> None:
        self.case, self.expected, self.got, self.remedy = str(case), expected, got, remedy
        super().__init__(f"{case}: expected {expected}, got {got}; {remedy}")

    def __reduce__(self):
        # Worker processes send exceptions back by pickle, which would call __init__ with the joined message alone.
        return type(self), (self.case, self.expected, self.got, self.remedy)
