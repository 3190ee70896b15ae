"""How fast are the frames of a video read, against ffmpeg's own pipe of raw RGB?

    python benchmarks/video.py VIDEO [--ffmpeg PROGRAM] [--repeats 7] [--json]

Both read all frames into arrays on one core. The ratio is the pipe's time over the reader's: above
1, the reader is faster. `seek` compares reading 7 frames from the middle of the video, from a key
frame on, with reading all up to there.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
from timing import medians, one_core, report

from stdpipe.data.video import decoded, open_video
from stdpipe.data.video_facts import facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("--ffmpeg", default=shutil.which("ffmpeg"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.ffmpeg:
        parser.error("no ffmpeg on the path: give --ffmpeg")
    video = open_video(arguments.video)
    count, size = len(facts(arguments.video).times), (video.height, video.width, 3)
    middle = count // 2

    def pipe() -> None:
        command = [arguments.ffmpeg, "-v", "error", "-threads", "1", "-i", str(arguments.video)]
        command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        length, found = int(np.prod(size)), 0
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout
            while len(data := running.stdout.read(length)) == length:
                np.frombuffer(data, np.uint8).reshape(size)
                found += 1
        assert found == count, f"the pipe gave {found} frames of {count}"

    def read() -> None:
        assert sum(1 for _ in decoded(video)) == count

    with one_core():
        found = medians(
            {
                "pipe": pipe,
                "read": read,
                "seek": lambda: list(decoded(video, middle, middle + 7)),
                "up to there": lambda: sum(1 for _ in decoded(video, 0, middle + 7)),
            },
            arguments.repeats,
        )
    settings = {"frames": count, "width": video.width, "height": video.height}
    ratios = {
        "read_over_ffmpeg": found["pipe"] / found["read"],
        "seek_over_reading_all": found["up to there"] / found["seek"],
    }
    report("video", settings, ratios, arguments.json, found)


if __name__ == "__main__":
    main()
