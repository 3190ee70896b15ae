"""Pixel shuffle for runtimes whose maps have the channels last.

Their converters write torch's pixel shuffle, whose channels come colour by colour, as three
transpositions of the whole image. Of channels that come pixel by pixel (TensorFlow's
depth_to_space) it is one, of runs of r * C values. So the convolution in front of it has its output
channels put in that order. The image is the same.
"""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from stdpipe.deploy.graph import replace

ATEN = torch.ops.aten


def shuffle_channels_last(program: ExportedProgram) -> None:
    """Rewrite a traced program's pixel shuffles of one image that alone take a convolution."""
    graph = program.graph_module.graph
    names = {**program.graph_signature.inputs_to_parameters}
    for node in list(graph.nodes):
        if node.target != ATEN.pixel_shuffle.default:
            continue
        conv, factor = node.args
        if conv.target != ATEN.conv2d.default or len(conv.users) > 1:
            continue
        groups = conv.args[6] if len(conv.args) > 6 else 1
        if groups != 1 or conv.meta["val"].shape[0] != 1:
            continue  # its outputs cannot change places, or there are several images
        held = [x for x in conv.args[1:3] if isinstance(x, Node)]
        if any(x.name not in names or len(x.users) > 1 for x in held):
            continue
        for parameter in held:
            _put_in_order(program.state_dict, names[parameter.name], factor)
        with graph.inserting_before(node):
            replace(program, node, _shuffled(graph, conv, factor))
        graph.erase_node(node)
    program.graph_module.recompile()


def _put_in_order(held: dict[str, Any], name: str, factor: int) -> None:
    """Move a parameter's output channels from (C, r, r) to (r, r, C)."""
    kept = held[name]
    moved = (
        kept.detach().unflatten(0, (-1, factor, factor)).permute(1, 2, 0, *range(3, 2 + kept.ndim))
    )
    held[name] = torch.nn.Parameter(moved.flatten(0, 2).contiguous(), requires_grad=False)


def _shuffled(graph: torch.fx.Graph, conv: Node, factor: int) -> Node:
    """Add what shuffles (1, r r C, h, w), pixel by pixel: -> (1, C, r h, r w)."""
    value = conv.meta["val"]
    _, channels, height, width = value.shape
    colours = channels // factor**2

    def call(target: Any, given: Node, argument: list[int]) -> Node:
        made = graph.call_function(target, (given, argument))
        made.meta["val"] = target(given.meta["val"], argument)
        return made

    last = call(ATEN.permute.default, conv, [0, 2, 3, 1])
    rows = call(ATEN.reshape.default, last, [height, width, factor, factor * colours])
    mixed = call(ATEN.permute.default, rows, [0, 2, 1, 3])
    image = call(ATEN.reshape.default, mixed, [1, factor * height, factor * width, colours])
    return call(ATEN.permute.default, image, [0, 3, 1, 2])
