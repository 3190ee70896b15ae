"""The errors that stdpipe tells its user in one line: what was wrong, and what to do."""


class UserError(ValueError):
    """Something that the user can mend. Every other ValueError is a fault of stdpipe's own."""


class DamagedError(UserError):
    """A file that carries a checksum, which does not fit what it holds."""


class CacheError(UserError):
    """A cache that cannot be used as asked."""
