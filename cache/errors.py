"""The one error that users of a cache meet."""


class CacheError(ValueError):
    """A cache that cannot be used as asked: one line, what was got and what to do."""
