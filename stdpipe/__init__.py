"""stdpipe makes video super-resolution networks small: a heavy teacher runs once and fills a cache,
and students learn from the cache.

The names below are for any training loop; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stdpipe.api import (
        degrade_clip as degrade_clip,
        evaluate_network as evaluate_network,
        extract_teacher as extract_teacher,
        load_network as load_network,
        upscale_video as upscale_video,
    )
    from stdpipe.cache.errors import UserError as UserError
    from stdpipe.features.teacher_cache import (
        TeacherCache as TeacherCache,
        open_cache as open_cache,
    )
    from stdpipe.training.clips import CachedClips as CachedClips
    from stdpipe.training.distillation import Distillation as Distillation

# name -> the module that defines it
_PUBLIC = {
    "extract_teacher": "api",
    "open_cache": "features.teacher_cache",
    "TeacherCache": "features.teacher_cache",
    "CachedClips": "training.clips",
    "Distillation": "training.distillation",
    "load_network": "api",
    "evaluate_network": "api",
    "upscale_video": "api",
    "degrade_clip": "api",
    "UserError": "cache.errors",
}
__all__ = list(_PUBLIC)


if not TYPE_CHECKING:  # or type checkers would take any name

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'stdpipe' has no attribute {name!r}")
        value = getattr(import_module(f"stdpipe.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
