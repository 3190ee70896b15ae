"""The `stdpipe` command. Torch is imported inside commands, so that --help answers at once."""

from importlib import import_module

import click

from stdpipe.cli.errors import Group

# each names a function, and the file that holds it
COMMANDS = """extract_teacher train_student evaluate experiment report upscale export train_teacher
    bench pack_clips degrade cache runs models demo"""
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=Group, context_settings=SETTINGS)
@click.version_option(package_name="stdpipe")
def main() -> None:
    """Distil a heavy video super-resolution network into small ones.

    The teacher runs once and fills a cache; students train from the cache.

    \b
    Example:
      stdpipe demo --out demo
    """


for name in COMMANDS.split():
    main.add_command(getattr(import_module(f"stdpipe.cli.{name}"), name))

if __name__ == "__main__":  # torchrun -m stdpipe.cli.main
    main(prog_name="stdpipe")
