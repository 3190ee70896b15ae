"""Train a teacher: Charbonnier on one random frame of each clip.

setup -> train -> save -> measure. tsa_steps is EDVR's second phase: start from a network without
TSA (--init), train the fusion alone first, then everything. train_only trains some parts alone,
such as the head that makes a published RBPN fit. PISR's teacher is shown HR, and its encoder
imitates LR.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe import distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import at_scale, degradation
from stdpipe.data.pairs import degradation_of, find_pairs
from stdpipe.data.patch import check_patch
from stdpipe.data.samples import Stream, finish
from stdpipe.data.sizes import check_sizes, leave_small, tell_sizes
from stdpipe.data.views import full_views, generator
from stdpipe.device import autocast, pick_device
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.pisr import imitation_loss
from stdpipe.features.quality import quality_of
from stdpipe.features.targets import to_device
from stdpipe.models import checkpoints, fold, zoo
from stdpipe.models.base import Network, check_scale, window_indices
from stdpipe.models.pisr import PISR
from stdpipe.suggest import nearest
from stdpipe.training import metrics_log, run_folder, stopping, warm
from stdpipe.training.clip_sums import ClipSums, without
from stdpipe.training.config import TeacherTraining
from stdpipe.training.jobs import TeacherRun

LOG = logging.getLogger(__name__)

FUSION = "fusion"  # EDVR's name for its TSA, or for the convolution in its place


def train_teacher(run: TeacherRun, options: TeacherTraining) -> dict[str, Any]:
    """Train, or resume, into OUT/weights.pt; return the facts, the last loss, and how good the
    network is (`quality`; `init_quality` is that of --init, where a run begins from all of it).

    Raises UserError for weights of --init that have nothing to teach.
    """
    device, weights = pick_device(run.device), run.out / "weights.pt"
    spec = zoo.parse(run.network)
    how = degradation_of(run.data, run.degradation) or at_scale("bd", spec.scale)
    spec = spec.with_phase(degradation(how).phase)

    def save_weights() -> None:
        checkpoints.save_network(weights, net, str(spec), how)

    with distributed.group(device):
        stream = _stream(run, how, options)
        stream.unfinished = device.type != "cpu"
        torch.manual_seed(options.seed)
        net = spec.build()
        _check_network(net, str(spec), options)
        check_scale(net, str(spec), how, stream.scale)
        check_patch(options.patch, stream.scale)
        is_whole = False
        if run.init:
            is_whole = _start_from(net, spec, run.init, _alone(options, step=0))
        elif _alone(options, step=0):
            key = "train_only" if options.parts else "tsa_steps"
            raise UserError(f"{key} leaves the rest of {spec} as --init has it: give --init")
        net.to(device)
        facts = {
            "network": str(spec),
            **checkpoints.revised(net),
            "data": str(run.data),
            "degradation": how,
            "clips": run_folder.digest(v.clip for v in stream.views),
            **checkpoints.init_facts(run.init),
        }
        is_new = is_whole and not (run.out / "checkpoint.pt").exists()
        before = _quality(net, stream, device, run.accept_teacher) if is_new else None
        with run_folder.open_run(run.out, facts, options), stopping.heard() as stop:
            last = _fit(net, stream, save_weights, run.out, options, device, stop)
        after = _quality(net, stream, device, accept=True)  # the weights are written
    told = {"weights": str(weights), "network": str(spec), "steps": options.steps, "loss": last}
    return {**told, "init_quality": before, "quality": after}


def _quality(
    net: Network, stream: Stream, device: torch.device, accept: bool
) -> dict[str, Any] | None:
    """Measure the network on training clips, by rank 0; a dict of a Quality's fields."""
    rest = (stream.clips, stream.views, stream.degradation, device)
    found = distributed.from_first(lambda: quality_of(net.eval(), *rest, accept=accept))
    return dataclasses.asdict(found) if found else None


def _stream(run: TeacherRun, how: str, options: TeacherTraining) -> Stream:
    clips = {c.key: c for c in find_pairs(run.data, "train", how, length=run.frames)}
    if alone := next((clip for clip in clips.values() if not clip.has_hr), None):
        raise UserError(f"clip {alone.key} has LR alone, and a teacher learns from HR: exclude it")
    scale, turns = degradation(how).scale, degradation(how).turns
    sizes = check_sizes([*clips.values()], scale)
    clips = leave_small(clips, sizes, options.patch, scale)
    if distributed.first():
        tell_sizes(clips, sizes)
    views = full_views([*clips], options.stream_seed, len(turns), turns)
    return Stream(clips, views, how, options.patch, options.stream_seed)


def _check_network(net: Network, name: str, options: TeacherTraining) -> None:
    run_folder.check_trainable(net, name, options)
    names = [k for k, p in net.named_parameters() if p.requires_grad]
    if net.scale == 1 and not net.sees_hr:
        raise UserError(f"{name} does not enlarge: its input has HR size already")
    if options.tsa_steps and not any(_within(k, (FUSION,)) for k in names):
        raise UserError(
            f"tsa_steps ({options.tsa_steps}) trains a fusion, which {name} does not have; "
            "set tsa_steps=0 or choose an edvr"
        )
    for part in options.parts:
        if not any(_within(k, (part,)) for k in names):
            known = dict.fromkeys(k.split(".")[0] for k in names)
            raise UserError(f"train_only: {name} has no part {part!r}{nearest(part, known)}")


def _within(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether a parameter belongs to one of the parts."""
    return f"{name}.".startswith(tuple(f"{part}." for part in parts))


def _start_from(net: Network, spec: zoo.Spec, init: Path, fresh: tuple[str, ...]) -> bool:
    """Fill the network; parameters of a `fresh` part that do not fit keep their initial values.

    Return whether all parameters are filled.
    """
    state, header = checkpoints.read_checkpoint(init, net, spec)
    own = net.state_dict()
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    drawn = {k: v for k, v in own.items() if _within(k, fresh) and k not in fits}
    if drawn:
        parts = ", ".join(dict.fromkeys(k.split(".")[0] for k in drawn))
        LOG.warning("stdpipe: %s does not hold this %s, which starts fresh", init, parts)
    kept = {k: v for k, v in state.items() if k in fits or not _within(k, fresh)}
    checkpoints.load_state(net, {**kept, **drawn}, header, str(init))
    return not drawn


def _fit(
    net: Network,
    stream: Stream,
    save_weights: Callable[[], None],
    out: Path,
    options: TeacherTraining,
    device: torch.device,
    stop: stopping.Stop,
) -> float | None:
    stepper = run_folder.Stepper(list(net.parameters()), options, device)
    saved, sums = run_folder.resume(out, net=net, stepper=stepper), ClipSums(stream, out)
    if "clip_sums" in saved:
        sums.resume(saved["clip_sums"])
    if saved["step"] == options.steps:
        weights = out / "weights.pt"

        def settle() -> None:
            run_folder.settle(weights, options.steps, lambda _: save_weights())

        distributed.from_first(settle)
    own_id = distributed.from_first(lambda: run_folder.run_id(out))
    start = saved["step"]
    metrics = metrics_log.Metrics(out, start, saved.get("metrics"))
    stream.lead = warm.lead([net], [options])
    losses = distributed.data_parallel(TeacherLosses(net, options.imitation))
    slices = distributed.slices(options.batch, options.accumulate)
    batches = iter(run_folder.loader(stream, start, options.steps, options, device))
    bar, clock = metrics_log.progress("train-teacher", start, options.steps), metrics_log.Clock()
    for step in range(start, options.steps):
        _train_alone(net, _alone(options, step))
        inputs, parts = [], []
        for clips in slices:
            with clock.waiting():
                batch = next(batches)
                sums.take(batch)
                batch = to_device(without(batch), device)
            batch = finish(batch, stream.degradation)
            window, hr = _pick_frames(batch, net, options, step, clips)
            with distributed.apart(losses, more_to_come=clips is not slices[-1]):
                with autocast(device, options.amp):
                    made = losses(window, hr, warm.draw(net, options, step))
                stepper.backward(made["loss"])
            inputs.append(batch)
            parts.append({name: part.detach() for name, part in made.items()})
        stepper.step(step)
        fold.advance(net)
        values = metrics_log.to_floats(parts)
        run_folder.stop_on_nan(out, step, values, inputs)
        metrics.add(values, clock.lap())
        bar.update()
        done = step + 1
        if done % options.log_every == 0 or done == options.steps:
            bar.set_postfix(metrics.log(done, lr=stepper.lr), loss=f"{metrics.last['loss']:.5f}")
        is_last = done == options.steps or stop.agreed()
        if done % options.save_every == 0 or is_last:
            sums.share()
            if distributed.first():
                save_weights()  # first: a run whose checkpoint has all steps never comes here again
                states = {"net": net, "stepper": stepper, "metrics": metrics, "clip_sums": sums}
                run_folder.save_checkpoint(out, done, run_id=own_id, **states)
        if is_last:
            break
    bar.close()
    return metrics.last.get("loss")


def _pick_frames(
    batch: dict[str, Tensor], net: Network, options: TeacherTraining, step: int, clips: range
) -> tuple[dict[str, Tensor], Tensor]:
    """Pick a random frame t of each of these clips of the step; a clip or causal network learns
    from all frames of a clip instead.

    Return its windows, "lr" (B, 2k+1, 3, h, w) and, for a privileged teacher, "hr"
    (B, 2k+1, 3, H, W), and t itself at HR (B, 3, H, W).
    """
    if net.kind != "window":
        return {name: batch[name] for name in ("lr", "before") if name in batch}, batch["hr"]
    num_frames = batch["lr"].shape[1]
    rng = generator(options.stream_seed, "frame", step)
    t = rng.integers(num_frames, size=options.batch)[clips.start : clips.stop].tolist()
    frames = torch.tensor(window_indices(num_frames, net.num_frame, t))
    each = torch.arange(len(clips))
    names = ("lr", "hr") if net.sees_hr else ("lr",)
    window = {name: batch[name][each[:, None], frames] for name in names}
    return window, batch["hr"][each, torch.tensor(t)]


class TeacherLosses(nn.Module):
    """Computes L_rec and, for PISR's teacher, how far its encoding of HR is from LR."""

    def __init__(self, net: Network, imitation: float) -> None:
        super().__init__()
        self.net = net
        self.imitation = imitation

    def forward(
        self, window: dict[str, Tensor], hr: Tensor, start: warm.Start
    ) -> dict[str, Tensor]:
        """Return the loss parts by name, means over the batch; "loss" alone has a gradient."""
        net = self.net
        if net.kind != "window":
            seen, state = warm.begun(net, {**window, "hr": hr}, start)
            return {"loss": charbonnier(net.features_clip(seen["lr"], **state).sr, seen["hr"])}
        if not isinstance(net, PISR):
            return {"loss": charbonnier(net(window["hr" if net.sees_hr else "lr"]), hr)}
        encoded = net.encode(window["hr"])
        rec = charbonnier(net.student(encoded), hr)
        imitation = imitation_loss(encoded, window["lr"])
        loss = rec + self.imitation * imitation
        return {"loss": loss, "rec": rec.detach(), "imitation": imitation.detach()}


def _alone(options: TeacherTraining, step: int) -> tuple[str, ...]:
    """Return the parts that this step trains; none where it trains everything."""
    return (FUSION,) if step < options.tsa_steps else options.parts


def _train_alone(net: Network, parts: tuple[str, ...]) -> None:
    """Freeze everything but these parts, the statistics of its norms too; none frees everything."""
    net.train(not parts)
    for part in parts:
        net.get_submodule(part).train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not parts or _within(name, parts))
