"""What every test may use: real frames (where they are absent, tests on them skip), a tiny data set
and its cache, the command line in this process, and an object store on loopback."""

import importlib.util
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner, Result

# Before torch is imported, and for child processes too: threads that wait for each other on busy
# cores make tiny networks a hundred times slower, and their number may change the last bit.
os.environ["OMP_NUM_THREADS"] = "1"

TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
STUDENT = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"  # C_SR is 4
SETTINGS = {
    "steps": 3,
    "warmup_steps": 1,
    "patch": 16,
    "batch": 2,
    "workers": 0,
    "log_every": 1,
    "save_every": 1,
}


def pytest_configure() -> None:
    """Stop at once where the code that would be tested is not the code beside these tests.

    With an editable install of one checkout, the tests of another would import its own stdpipe and
    the first one's stdpipe.cache and stdpipe.cli.
    """
    root = Path(__file__).resolve().parents[1]
    for name, folder in (
        ("stdpipe", "stdpipe"),
        ("stdpipe.cache", "cache"),
        ("stdpipe.cli", "cli"),
    ):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != root / folder:
            where = f"comes from {found}" if found else "is not installed"
            pytest.exit(
                f"{name} {where}, but these tests are of {root / folder}: "
                f"run `pip install -e .` in {root}, with the Python that runs the tests",
                returncode=pytest.ExitCode.USAGE_ERROR,
            )


def _real_data(name: str) -> Path:
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STDPIPE_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"real frames ({name}) are not here: set STDPIPE_DATA to the folder with them")
    return folder


@pytest.fixture(scope="session")
def vid4() -> Path:
    """The folder of Vid4's ground truth: GT/{calendar,city,foliage,walk}/*.png."""
    return _real_data("vid4")


@pytest.fixture(scope="session")
def footage() -> Path:
    """A small real data set in Vimeo90K's layout."""
    return _real_data("footage")


@pytest.fixture(scope="session")
def films(
    vid4: Path,
    footage: Path,
    tmp_path_factory: pytest.TempPathFactory,
    save_frames: Callable[..., Path],
) -> Path:
    """A folder of five real videos of two sizes. Of `films:test=0.2`, Vid4's is held out."""
    folder = tmp_path_factory.mktemp("films")
    lines = (footage / "SOURCES.tsv").read_text().splitlines()[1:]
    of_file: dict[str, list[Path]] = {}
    for key, file in (line.split("\t")[:2] for line in lines):
        of_file.setdefault(file, []).append(footage / "sequences" / key)
    named = {"bbb": "bbb.mp4", "sintel": "sintel_trailer-720p.mp4", "film": "cockatoo.mp4",
             "street": "bikes.mp4"}  # fmt: skip
    frames = {
        name: sorted(clip.glob("*.png"))
        for name, file in named.items()
        for clip in of_file[file][:1]
    }
    frames["walk"] = sorted((vid4 / "GT/walk").glob("*.png"))[:9]
    for name, files in frames.items():
        save_frames(folder / f"{name}.mp4", np.stack([iio.imread(file) for file in files]), crf=10)
    return folder


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """published(name): a file or folder of published weights, beside the real data sets."""

    def find(name: str) -> Path:
        beside = Path(__file__).parents[2] / "shared" / "data"
        path = Path(os.environ.get("STDPIPE_DATA", beside)).parent / "published" / name
        if not path.exists():
            pytest.skip(f"published weights ({name}) are not here")
        return path

    return find


def _frames(seed: int, num_frames: int, height: int, width: int) -> np.ndarray:
    """A smooth random texture that moves two pixels a frame: (T, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    canvas = rng.random((height + 16, width + 2 * num_frames + 16, 3))
    for axis in (0, 1):
        canvas = sum(np.roll(canvas, shift, axis) for shift in range(5)) / 5
    canvas = (canvas - canvas.min()) / np.ptp(canvas) * 255
    views = [canvas[:height, 2 * t : 2 * t + width] for t in range(num_frames)]
    return np.stack(views).round().astype(np.uint8)


def _make_data(root: Path, clips: int = 3, height: int = 32, width: int = 48) -> Path:
    keys = [f"00001/{number:04d}" for number in range(1, clips + 1)]
    for seed, key in enumerate(keys):
        folder = root / "sequences" / key
        folder.mkdir(parents=True)
        for number, frame in enumerate(_frames(seed, 7, height, width), start=1):
            iio.imwrite(folder / f"im{number}.png", frame)
    (root / "sep_trainlist.txt").write_text("\n".join(keys) + "\n")
    (root / "sep_testlist.txt").write_text(keys[-1] + "\n")
    return root


def _stdpipe(*arguments: object, code: int = 0) -> Result:
    from stdpipe.cli.main import main

    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="stdpipe")
    assert result.exit_code == code, result.output
    if code:
        assert isinstance(result.exception, SystemExit), result.exception
    return result


def _refused(*arguments: object, code: int = 1) -> str:
    result = _stdpipe(*arguments, code=code)
    assert result.stdout == ""
    # a warning takes a line of its own, and hides no error
    told = [x for x in result.stderr.splitlines() if not x.startswith("stdpipe: warning: ")]
    assert len(told) == 1, result.stderr
    assert told[0].startswith("stdpipe: "), result.stderr
    return told[0].strip()


def _options(defaults: dict[str, object], more: Sequence[object]) -> list[object]:
    """The defaults that `more` does not give itself, as options; then `more`."""
    kept = {name: value for name, value in defaults.items() if name not in more}
    return [word for option in kept.items() for word in option] + list(more)


def _extract(data: Path, cache: Path, *more: object) -> list[object]:
    tiny = {"--teacher": TEACHER, "--weights": "random:0", "--encoding": "float32"}
    return ["extract-teacher", "--data", data, "--cache", cache, *_options(tiny, more)]


def _train(out: Path, data: Path, *more: object, **settings: object) -> list[object]:
    changed = [x for k, v in (SETTINGS | settings).items() for x in ("--set", f"{k}={v}")]
    given = _options({"--student": STUDENT, "--config": "paper"}, more)
    return ["train-student", "--data", data, "--out", out, *changed, *given]


@pytest.fixture(scope="session")
def make_data() -> Callable[..., Path]:
    """make_data(root, clips, height, width): clips of 7 frames in Vimeo90K's layout."""
    return _make_data


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training clips of 32 x 48 pixels; the last is the test clip, too. Read only."""
    return _make_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture
def apart(tmp_path: Path, tiny: Path) -> Path:
    """As `tiny`, with a test clip that is not trained on."""
    root = Path(shutil.copytree(tiny, tmp_path / "apart"))
    clips = root / "sequences" / "00001"
    shutil.copytree(clips / "0001", clips / "0004")
    (root / "sep_testlist.txt").write_text("00001/0004\n")
    return root


@pytest.fixture
def folders(tmp_path: Path, tiny: Path) -> Path:
    """Three clips as plain folders of frames."""
    return Path(shutil.copytree(tiny / "sequences" / "00001", tmp_path / "folders"))


@pytest.fixture(scope="session")
def stdpipe() -> Callable[..., Result]:
    """The command, in this process: stdpipe(*arguments, code=0) checks the exit code."""
    return _stdpipe


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """refused(*arguments, code=1): one line on stderr, warnings apart; returns the line."""
    return _refused


@pytest.fixture(scope="session")
def spawn() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """spawn(arguments, before=""): the command in a process of its own, after some Python."""

    def run(arguments: Sequence[object], before: str = "") -> "subprocess.CompletedProcess[str]":
        # a shell starts background jobs with SIGINT ignored, and children inherit that
        hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        code = hear + before + "\nfrom stdpipe.cli.main import main\nmain(prog_name='stdpipe')"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(  # a session of its own: Ctrl-C reaches it and its workers, not us
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,
        )

    return run


@pytest.fixture(scope="session")
def extract() -> Callable[..., list[Any]]:
    """extract(data, cache, *more): the arguments of a tiny extract-teacher, float32."""
    return _extract


@pytest.fixture(scope="session")
def train() -> Callable[..., list[Any]]:
    """train(out, data, *more, **settings): the arguments of a tiny train-student, 3 steps."""
    return _train


@pytest.fixture(scope="session")
def tiny_cache(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set's features under the tiny teacher, two orientations a clip. Read only."""
    cache = tmp_path_factory.mktemp("cache") / "cache.zarr"
    _stdpipe(*_extract(tiny, cache, "--orientations", 2))
    return cache


def _beside(name: str) -> Any:
    """A module beside this file; tests are no package, so it is loaded by its path."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _objects() -> Any:
    return _beside("objects")


@pytest.fixture(scope="session")
def beside() -> Callable[[str], Any]:
    """beside("forks"): a module that lies beside conftest.py."""
    return _beside


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """tests/forks.py's Forks: commands in processes that start at once, and may be killed."""
    with _beside("forks").forks(tmp_path_factory.mktemp("forks")) as process:
        yield process


@pytest.fixture(scope="session")
def writers(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., Any]]:
    """For each command that writes: arguments(out), all of whose files lie below `out`."""
    inputs = tmp_path_factory.mktemp("inputs")
    return dict(_beside("forks").writers(tiny, inputs, _stdpipe, _extract, _train))


@pytest.fixture(scope="session")
def object_server() -> Iterator[int]:
    """Port of an S3 server; skips where none can be had."""
    objects = _objects()
    if objects.missing():
        pytest.skip(f"no object store: {objects.missing()}")
    with objects.server() as port:
        yield port


@pytest.fixture
def s3(object_server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL of one's own in an object store; leases lapse within two seconds, retries in three."""
    from stdpipe.cache import objects

    for name, value in _objects().environment(f"http://127.0.0.1:{object_server}").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(objects, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 3.0)
    return f"s3://{_objects().BUCKET}/{uuid.uuid4().hex}/c.zarr"


@pytest.fixture
def proxy(s3: str, object_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A tests/objects.py Proxy through which all that follows goes."""
    proxy = _objects().Proxy(object_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def save_frames() -> Callable[..., Path]:
    """save_frames(out, frames, rate=25, crf=0, source=None, **look): a video or a folder of PNG
    files, written as upscale writes them, with what `source` has beside its pictures."""
    from stdpipe.data.frame_writer import folder_output, is_video, video_output
    from stdpipe.data.parts import kept_parts
    from stdpipe.data.video_writer import Look

    def save(
        out: Path,
        frames: np.ndarray,
        rate: float | Fraction = 25,
        crf: int = 0,
        source: Path | None = None,
        names: tuple[str, ...] = (),
        **look: Any,
    ) -> Path:
        output = folder_output(out, names)
        if is_video(out):
            deep = frames.dtype == np.uint16
            shape = Look(*frames.shape[1:3], Fraction(rate), crf, deep=deep, **look)
            output = video_output(out, shape, source)
        with kept_parts(out, output, str(out)) as parts:
            with parts.part() as write:
                for frame in frames:
                    write(frame)
            parts.commit(len(frames), b"")
            assert parts.finish() == []
        return out

    return save


@pytest.fixture(scope="session")
def save_tracks() -> Callable[..., Path]:
    """save_tracks(file, codec="aac", seconds=0.5, text=""): a file without pictures, with sound of
    that kind, a title, two chapters and, of a text, subtitles."""
    import av

    def save(file: Path, codec: str = "aac", seconds: float = 0.5, text: str = "") -> Path:
        rate, size = 48000, 1024
        written = file.with_suffix(".srt")
        written.write_text(f"1\n00:00:00,100 --> 00:00:00,300\n{text or '-'}\n")
        with av.open(file, "w") as container, av.open(written) as subtitles:
            container.metadata["title"] = "A tone"
            container.set_chapters(
                [
                    {
                        "id": n,
                        "start": n,
                        "end": n + 1,
                        "time_base": Fraction(1, 4),
                        "metadata": {"title": t},
                    }
                    for n, t in enumerate("ab")
                ]
            )
            stream = container.add_stream(codec, rate=rate)
            stream.layout, stream.format = "mono", "fltp"
            spoken = container.add_stream_from_template(subtitles.streams[0]) if text else None
            tone = np.sin(np.arange(round(seconds * rate)) / 20).astype("<f4")
            for at in range(0, len(tone), size):
                frame = av.AudioFrame.from_ndarray(tone[None, at : at + size], "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            for packet in subtitles.demux() if spoken else ():
                if packet.size:
                    packet.stream = spoken
                    container.mux(packet)
        written.unlink()
        return file

    return save


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of videos that people stumble over."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STDPIPE_DATA", beside)).parent / "cases" / "video"
    if not folder.is_dir():
        pytest.skip(f"the cases of videos are not here ({folder})")
    return folder
