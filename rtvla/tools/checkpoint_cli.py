"""`rtvla checkpoint`: takes over checkpoints of the old system, shows them, gives them back.

An old file is only ever read by torch's weights_only reader: nothing in it is run. `show` of an old file is an import
without writing. Exit codes: 0 done, 2 refused (the file, the choices, or a folder that is there already).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvla.errors import CheckpointError

if TYPE_CHECKING:
    from rtvla.models.import_origin import Plan
    from rtvla.models.origin.choices import Choices

OK, REFUSED = 0, 2


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}": must be a whole number from 1')
    return int(text)


# Flags of models.origin.choices.Choices, with underscores there: how argparse reads them, what they mean.
_FLAGS: dict[str, tuple[dict[str, Any], str]] = {
    "--window": ({"type": _count, "metavar": "N"}, "sensor samples that the model is fed (as many as it works on)"),
    "--sensor-length": ({"type": _count, "metavar": "N"}, "samples that it works on, made of the window (65, or 650)"),
    "--interpolation": ({"choices": ["linear", "nearest"]}, "how the window is made to fit (linear)"),
    "--heads": ({"type": _count, "metavar": "N"}, "attention heads of every part (8)"),
    "--horizon": ({"type": _count, "metavar": "N"}, "steps of a chunk, where the file does not say (8)"),
    "--flow-steps": ({"type": _count, "metavar": "N"}, "ODE steps (10)"),
    "--flow-solver": ({"choices": ["euler", "rk4"]}, "(euler)"),
    "--timesteps": ({"type": _count, "metavar": "N"}, "of the noise schedule (100)"),
    "--diffusion-steps": ({"type": _count, "metavar": "N"}, "of DDIM (50)"),
    "--diffusion-sampler": ({"choices": ["ddim", "ddpm"]}, "(ddim)"),
    "--prompt": ({"metavar": "TEXT"}, "with {task} in it (that of the training; v1: that of its receiver)"),
    "--vl-sequence": ({"choices": ["per_view", "joint"]}, "how the views are encoded (as the old receiver did)"),
    "--view-pooling": ({"choices": ["mean", "max"]}, "(mean)"),
    "--image-height": ({"type": _count, "metavar": "N"}, "(360)"),
    "--image-width": ({"type": _count, "metavar": "N"}, "(640)"),
    "--image-rule": ({"choices": ["origin", "hub"]}, "(origin)"),
    "--vl-backbone": ({"metavar": "NAME"}, "hub name or folder (Qwen/Qwen2.5-VL-3B-Instruct); a folder is copied in"),
    "--vl-dim": ({"type": _count, "metavar": "N"}, "values in its feature, if neither file nor backbone say"),
    "--vl-from-file": ({"action": "store_true"}, "use the VL weights of the file, a LoRA merged into them"),
    "--lora-alpha": ({"type": float, "metavar": "X"}, "of that LoRA (32)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, verb: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary)
        action.set_defaults(verb=lambda args: _refusing(verb, args))
        action.add_argument("--json", action="store_true", help="one JSON document")
        return action

    take = add("import", import_verb, "make a checkpoint of an old file; every key of it is accounted for")
    take.add_argument("old", type=Path, metavar="OLD.pt")
    take.add_argument("new", type=Path, metavar="NEW", help="a folder that does not exist yet")
    _add_choices(take)
    show = add("show", show_verb, "what an old file or a checkpoint folder is; writes nothing")
    show.add_argument("path", type=Path, metavar="OLD.pt|FOLDER")
    show.add_argument("--keys", action="store_true", help="every key, too")
    _add_choices(show)
    give = add("export", export_verb, "an imported checkpoint back into the layout that it came in")
    give.add_argument("folder", type=Path, metavar="FOLDER")
    give.add_argument("old", type=Path, metavar="OLD.pt", help="a file that does not exist yet")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what an old file does not say", argument_default=argparse.SUPPRESS)
    for flag, (kind, meaning) in _FLAGS.items():
        group.add_argument(flag, **kind, help=meaning)


def _choices(args: argparse.Namespace) -> Choices:
    from rtvla.models.origin.choices import Choices

    return Choices(**{field.name: getattr(args, field.name) for field in fields(Choices) if hasattr(args, field.name)})


def _refusing(verb: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        return verb(args)
    except (CheckpointError, OSError) as error:
        print(f"rtvla: {error}", file=sys.stderr)
        return REFUSED


def import_verb(args: argparse.Namespace) -> int:
    from rtvla.models.import_origin import plan, write

    if args.new.exists():
        raise CheckpointError(f"{args.new} exists: choose another name")
    planned = plan(args.old, _choices(args))
    write(planned, args.new)
    if args.json:
        print(json.dumps(_document(planned), indent=1))
        return OK
    _print_keys(planned.report.rows)
    _print_plan(planned)
    print(f"\nwritten: {args.new}")
    return OK


def show_verb(args: argparse.Namespace) -> int:
    if args.path.is_dir():
        return _show_folder(args)
    from rtvla.models.import_origin import plan

    planned = plan(args.path, _choices(args))
    if args.json:
        print(json.dumps(_document(planned), indent=1))
        return OK
    if args.keys:
        _print_keys(planned.report.rows)
    _print_plan(planned)
    return OK


def _show_folder(args: argparse.Namespace) -> int:
    from rtvla.models.checkpoint import load_spec
    from rtvla.models.origin import encoder_only
    from rtvla.models.origin.report import REPORT, Report

    report = Report.read(args.path) if (args.path / REPORT).is_file() else None
    if (args.path / encoder_only.DESCRIPTION).is_file():
        about: dict[str, Any] = {"encoder": asdict(encoder_only.describe(args.path))}
    else:
        about = {"spec": json.loads(load_spec(args.path).to_json())}
    about |= {} if report is None else {"report": asdict(report)}
    if not args.json and report is not None:
        del about["report"]
        about |= {"file": report.file, "sha256": report.sha256, "layout": report.layout, "assumed": report.assumed}
    print(json.dumps(about, indent=1))
    if args.keys and not args.json and report is not None:
        _print_keys(report.rows)
    return OK


def export_verb(args: argparse.Namespace) -> int:
    from rtvla.models.origin.export import export

    report, absent = export(args.folder, args.old)
    if args.json:
        print(json.dumps({"layout": report.layout, "absent": [row.key for row in absent]}, indent=1))
        return OK
    for row in absent:
        print(f"not in it  {row.key}  ({row.why})")
    print(f"\nwritten: {args.old}, {report.layout}; {len(report.rows) - len(absent)} keys, {len(absent)} not in it")
    return OK


def _print_keys(rows: Any) -> None:
    for row in rows:
        print(row.line())
    print()


def _print_plan(planned: Plan) -> None:
    from rtvla.models.origin.facts import FAULTS
    from rtvla.models.origin.report import counts

    print(f"layout    {planned.layout.name}: {planned.layout.script}")
    for place, part in planned.parts.items():
        size = _parameters(planned, place)
        print(f"part      {place or 'whole'}: {part.kind}, {size / 1e6:.3g} M parameters")
        print(f"          {', '.join(f'{name} {value}' for name, value in part.arguments.items())}")
    if planned.spec is None:
        print("kind      an encoder to start a training with: it is no policy and cannot be run as one")
    elif planned.vl is not None and planned.spec.origin is not None:
        origin = planned.spec.origin
        print(
            f"backbone  {planned.spec.vl_backbone}; VL weights of the file: {origin.vl_weights}, LoRA {origin.vl_lora}"
        )
        for fault in origin.faults:
            print(f"fault     {fault}: {FAULTS[fault]}")
    for name, value in planned.report.assumed.items():
        print(f"assumed   {name} = {value}")
    print(f"keys      {', '.join(f'{count} {action}' for action, count in counts(planned.report.rows).items())}")


def _parameters(planned: Plan, place: str) -> int:
    prefix = f"{place}." if place else ""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(
        one.numel() for name, one in planned.weights.items() if name.startswith(prefix) and not name.endswith(buffers)
    )


def _document(planned: Plan) -> dict[str, Any]:
    from rtvla.models.origin.facts import FAULTS

    origin = planned.spec.origin if planned.spec else None
    return {
        "layout": planned.layout.name,
        "script": planned.layout.script,
        "parts": {
            place: asdict(part) | {"parameters": _parameters(planned, place)} for place, part in planned.parts.items()
        },
        "faults": {fault: FAULTS[fault] for fault in origin.faults} if origin else {},
        "assumed": dict(planned.report.assumed),
        "spec": json.loads(planned.spec.to_json()) if planned.spec else None,
        "keys": [{"key": row.key} | asdict(row) for row in planned.report.rows],
    }
