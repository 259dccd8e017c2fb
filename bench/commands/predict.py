"""Predicts images of any size, folders and animations: label maps, overlays and a contact sheet.

python -m bench.predict --ckpt ./runs/taylor_pruned/pruned_model.pt --images ./photos --save ./predictions
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.checks import refuse_flags, require_flags
from bench.cli.entry import run
from bench.cli.parser import Parser, collect
from bench.commands.shared import keys_of_commands
from bench.config.values import parse_size
from bench.datasets.options import DataOptions
from bench.errors import BenchError, UsageError
from bench.measure.options import ScoringOptions
from bench.models.options import ModelOptions
from bench.system.options import RunOptions

COMMON = "--ckpt --onnx --images --save --input-size --dataset --model --eval-batch-size --flip --device --threads"


def build_parser() -> Parser:
    """The command line of `python -m bench.predict`."""
    parser = Parser(
        "python -m bench.predict",
        "Writes what a network says of each pixel of images: label maps, overlays, a contact sheet.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--ckpt", metavar="FILE", help="the network: dense, pruned or fine-tuned; or")
    files.add_argument("--onnx", metavar="FILE", help="an ONNX file of it, which onnxruntime runs on the CPU")
    files.add_argument(
        "--images",
        metavar="PLACE",
        nargs="+",
        help="folders, images, animations (GIF, APNG, WebP, AVIF), or patterns such as 'photos/**/*.png'",
    )
    files.add_argument("--save", metavar="DIR", help="where labels/, overlays/ and contact_sheet.png go")
    names = "data set whose class names and colours are shown (default: the network's)"
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", metavar="NAME", help=names)
    colours = "classes.yaml with the classes' names and colours, and how the network sees images (default: its own)"
    data.add_argument("--classes-file", metavar="FILE", help=colours)
    size = "size images are scaled to before the network (default: the network's, else the image's own)"
    parser.add_value(data, "--input-size", parse_size, metavar="H,W", help=size)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    parser.add_options("scoring", ScoringOptions, skip=("split", "boundary_width"))
    parser.add_options("run", RunOptions, skip=("seed",))
    parser.add_alternatives("ckpt", "onnx")
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and predicts."""
    arguments = build_parser().parse(argv)
    require_flags(arguments, "images", "save", *(() if arguments.onnx else ("ckpt",)))
    if arguments.onnx:
        refuse_flags(arguments, "--onnx names a network that is complete", "ckpt", "model", "model_args", "key_map")
        if arguments.device not in ("auto", "cpu"):
            raise UsageError("--onnx computes on the CPU; leave --device out")
        arguments.device = "cpu"

    from bench.jobs.predicting.frames import sources_of
    from bench.jobs.predicting.networks import open_checkpoint, open_onnx
    from bench.jobs.predicting.running import predict_images
    from bench.measure.inference import Scoring
    from bench.system.console import say
    from bench.system.devices import set_up

    scoring = collect(ScoringOptions, arguments)
    passes, device = Scoring.of(scoring), set_up(collect(RunOptions, arguments))
    sources, folder = sources_of(arguments.images), Path(arguments.save)
    data, options = collect(DataOptions, arguments), collect(ModelOptions, arguments)
    if arguments.onnx:
        network = open_onnx(Path(arguments.onnx), data)
    else:
        network = open_checkpoint(Path(arguments.ckpt), data, options, device)
    found = predict_images(network, sources, folder, device=device, scoring=passes, batch_size=scoring.eval_batch_size)
    say(f"{found} -> {folder}")
    if found.unread:
        count, files = len(found.unread), len(sources)
        raise BenchError(f"{count} of {files} files could not be read and are left out, the first: {found.unread[0]}")


if __name__ == "__main__":
    run(main)
