"""The two ways a run ends early: the user asked for something impossible, or the numbers broke."""


class UserError(Exception):
    """One clear line that says what is wrong and what to do; shown without a traceback."""


class TrainingStopped(UserError):  # noqa: N818 - it is a decision, not an accident
    """Training stopped before an optimiser step because a loss or gradient was not finite."""
