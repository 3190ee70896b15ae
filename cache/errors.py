"""The errors that stdpipe tells its user in one line: what was wrong, and what to do."""


class UserError(ValueError):
    """Something that the user can mend. Every other ValueError is a fault of stdpipe's own."""


class CacheError(UserError):
    """A cache that cannot be used as asked."""
