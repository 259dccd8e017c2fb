"""Looks through a folder of images and masks, and writes a draft of the classes.yaml that names its classes.

python -m bench.datasets.scan ./datasets/mine
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.parser import Parser


def build_parser() -> Parser:
    """The command line of `python -m bench.datasets.scan`."""
    parser = Parser(
        "python -m bench.datasets.scan",
        "Counts the ids or colours of the masks in a folder, their pixels, sizes, and files that have no partner; "
        "writes a draft of the classes.yaml that --dataset folder needs, unless there is one.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("folder", metavar="DIR", help="the folder of the images and masks")
    files.add_argument("--out", metavar="FILE", help="the draft (default: classes.yaml in the folder)")
    parser.add_switch(files, "--colours", help="read masks as colours, also where they are stored with a palette")
    parser.add_switch(files, "--force", help="write a draft in place of a file that is there")
    ignored = (
        "ids that are not scored, such as 0,255, or one colour such as 0,0,0 (default: 255 and 65535 beside other ids)"
    )
    files.add_argument("--ignore", metavar="ID,...", help=ignored)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line, counts and writes."""
    arguments = build_parser().parse(argv)

    from bench.datasets.classes_file import read_description
    from bench.datasets.description import COLOURS, FILE, Places
    from bench.datasets.scan.counting import scan_folder
    from bench.datasets.scan.draft import draft_text, drafted
    from bench.datasets.scan.report import report
    from bench.errors import BenchError, UsageError
    from bench.system.console import say
    from bench.system.files import write_text

    words = (arguments.ignore or "").split(",") if arguments.ignore else []
    if not all(word.strip().isdigit() for word in words):
        raise UsageError(f"--ignore {arguments.ignore} is no list of ids; write whole numbers such as 0,255")
    root = Path(arguments.folder)
    path, own = Path(arguments.out or root / FILE), root / FILE
    known = read_description(own) if own.is_file() and not arguments.force else None
    labels = COLOURS if arguments.colours else known.labels if known else None
    found = scan_folder(root, known.places if known else Places(), labels)
    draft = drafted(found, [int(word) for word in words])
    for line in report(found, known or draft, is_draft=known is None):
        say(line)
    if path.exists() and not arguments.force:
        say(f"{path} is there and stays; --force writes a draft in its place")
        return
    try:
        write_text(path, draft_text(found, draft))
    except BenchError as error:
        if arguments.out:
            raise
        say(f"no draft was written ({error}); --out FILE writes it elsewhere")
        return
    say(f"-> {path}, a draft: give the classes their names there")
