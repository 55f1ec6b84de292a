"""The exceptions that a person at the command line is meant to read."""


class InputError(ValueError):
    """Something given from outside is wrong; the message is one line naming what and where.

    Commands print it without a traceback. Mistakes of this program raise anything else.
    """


class OtherFormatError(InputError):
    """Files are whole, but another version of this program wrote them."""
