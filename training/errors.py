"""Every way in which data or a training run can be wrong.

TrainingError
├── InvalidData            the data is not there, or not in a form that is understood
│   └── UnreadableImages   more images cannot be decoded than is tolerated
├── InvalidSource          what is to be imported is not what an import takes
├── NotReducible           no version of less precision can be made of this one
│   └── NotQuantizable     its network cannot be brought to int8
├── LeakageFound           the parts share images
├── InvalidRecipe          a setting of the run contradicts the data or another setting
├── RunNotFound            there is no stopped run to go on with, or it is of another recipe
├── RunNotWritable         the run's folder cannot be written, for instance on a full disk
├── Diverged               the loss is no longer a number
└── Interrupted            the run was stopped before its end; its checkpoint is kept
"""


class TrainingError(Exception):
    """The root of this tree; its text is written for the person who has to act on it."""


class InvalidData(TrainingError):
    """The data is missing, empty, or in no form that is known."""


class UnreadableImages(InvalidData):
    """More images cannot be decoded than the limit allows."""


class InvalidSource(TrainingError):
    """A file to import is missing, unsafe, not understood, or contradicts its labels or its options."""


class NotReducible(TrainingError):
    """A version is of reduced precision already, lacks what another would be made of, or nothing here runs it."""


class NotQuantizable(NotReducible):
    """A network has nothing that int8 would speed up, or something that cannot be brought to it."""


class LeakageFound(TrainingError):
    """Images of one part occur in another."""


class InvalidRecipe(TrainingError):
    """A setting of the run contradicts the data or another setting."""


class RunNotFound(TrainingError):
    """There is no stopped run to go on with, or it had another recipe or other data."""


class RunNotWritable(TrainingError):
    """The run's folder cannot be written."""


class Diverged(TrainingError):
    """The loss is no longer a number."""


class Interrupted(TrainingError):
    """The run was stopped before its end."""
