"""What make can do with a matrix. Each verb reads make's command line and returns an exit status."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lib import kconf, names
from lib.errors import Refused
from lib.files import shown
from lib.journal.folder import RunFolder
from lib.launch import processes
from lib.matrix import axes, cell, engine, gpus, source, status
from lib.matrix.plan import Matrix, find
from lib.matrix.points import ALWAYS, Cell, Front, Product
from lib.matrix.times import START_S, Times
from lib.names import near
from lib.options import DOTCONFIG, Assignment, Faults, Options, Resolved
from lib.progress import duration

NAME = "matrix"
HOUR_S = 3600
LISTED = 200  # cells that a dry run lists; the rest is counted

Environ = Mapping[str, str]


class Asked(NamedTuple):
    """What make's line and the configuration ask for, before anything is written."""

    made: Resolved  # the base configuration
    axes: axes.Axes
    product: Product
    baseline: dict[str, str]
    project: Path
    name: str


def perform(root: Path, environ: Environ, verb: str) -> int:
    """`scripts/test_matrix.py VERB`."""
    name = verb.replace("_", "-")
    if name not in VERBS:
        raise Refused(f"{verb}: no such verb of the matrix{near(name, VERBS)}. Use one of: {', '.join(VERBS)}")
    return VERBS[name](root, environ)


def test_matrix(root: Path, environ: Environ) -> int:
    """Freeze what is configured and run it; what has a result already is taken."""
    kconf.only(environ, "test_matrix", "O", "AXES", "FILTER", "JOBS", "NPROC", symbols=True)
    jobs = _jobs(environ)
    asked = _asked(root, environ)
    _say_what(asked)
    asked.project.mkdir(parents=True, exist_ok=True)
    matrix = Matrix.make(
        asked.project, asked.name, code=source.freeze(root, asked.project).name, axes=asked.axes,
        baseline=asked.baseline, cells=asked.product.cells, dotconfig=asked.made.dotconfig,
    )  # fmt: skip
    return _drive(root, environ, matrix, jobs)


def go_on(root: Path, environ: Environ) -> int:
    """Run what of a matrix has no result, with its own code and configuration."""
    kconf.only(environ, "continue", "MATRIX", "FILTER", "JOBS", "NPROC")
    return _drive(root, environ, _found(root, environ), _jobs(environ))


def rerun(root: Path, environ: Environ) -> int:
    """Run the cells that FILTER chooses once more, from the start; what was there is put aside."""
    kconf.only(environ, "rerun", "MATRIX", "FILTER", "JOBS", "NPROC")
    jobs, matrix = _jobs(environ), _found(root, environ)
    text = kconf.typed(environ, "FILTER")
    if not text:
        raise Refused("rerun: say which cells, such as FILTER='OPTIMIZER=sgd SEED=0'; FILTER='*' is all of them")
    _check_source(root, matrix)
    runs = [matrix.run(chosen) for chosen in matrix.chosen(text)]
    if held := [run.name for run in runs if cell.is_held(run)]:
        raise Refused(f"rerun: {len(held)} of these are running, such as {held[0]}. End them first, or wait")
    for run in runs:
        if run.path.exists():
            print(f"aside     {shown(cell.put_aside(run), root)}")
    return _drive(root, environ, matrix, jobs)


def dry_run(root: Path, environ: Environ) -> int:
    """List the cells in their order, with the line of each and what they should take; writes nothing."""
    kconf.only(environ, "test_matrix-dry-run", "O", "AXES", "FILTER", "JOBS", "NPROC", symbols=True)
    jobs = _jobs(environ)
    asked = _asked(root, environ)
    wanted = axes.rule(kconf.typed(environ, "FILTER"), ALWAYS + tuple(asked.axes), "FILTER", words=True)
    chosen = [one for one in asked.product.cells if wanted.holds(one.axes, one.name)]
    if not chosen:
        text, count = kconf.typed(environ, "FILTER"), len(asked.product.cells)
        raise Refused(f"FILTER={text}: none of the {count} cells. Without FILTER all of them are listed")
    there = {one.name for one in chosen if RunFolder(asked.project / one.name).result is not None}
    for number, one in enumerate(chosen[:LISTED], 1):
        words = " ".join(f"{name}={value}" for name, value in one.axes.items())
        print(f"{number:>5} {'done' if one.name in there else '    '} {one.name}  {words}")
    if len(chosen) > LISTED:
        print(f"      and {len(chosen) - LISTED} more")
    _say_what(asked)
    left = [one for one in chosen if one.name not in there]
    _estimate(environ, asked.made, asked.project, left, done=len(there), asked_jobs=jobs)
    return 0


def estimate(root: Path, environ: Environ) -> int:
    """What is left of a matrix, in time."""
    kconf.only(environ, "estimate", "MATRIX", "FILTER", "JOBS", "NPROC")
    matrix = _found(root, environ)
    _check_source(root, matrix)
    now = status.standing(matrix)
    chosen = matrix.chosen(kconf.typed(environ, "FILTER"))
    again = {*(one.name for one in now.left), *now.failed}
    left = [one for one in chosen if one.name in again]
    running = [at.left_s for at in now.running.values()]
    _estimate(environ, _base(matrix), matrix.project, left, done=now.done, asked_jobs=_jobs(environ), running=running)
    return 0


def where(root: Path, environ: Environ) -> int:
    """Show a matrix, on a terminal until it is over; status 1 when cells have failed."""
    kconf.only(environ, "status", "MATRIX")
    matrix = _found(root, environ)
    print(f"matrix    {shown(matrix.path, root)}")
    now = status.watch(matrix, status.Board(), live=sys.stdout.isatty())
    return 1 if now.failed else 0


def report(root: Path, environ: Environ) -> int:
    """Write the report of a matrix."""
    kconf.only(environ, "report", "MATRIX")
    _report(root, _found(root, environ))
    return 0


def export(root: Path, environ: Environ) -> int:
    """Write a table of every run of all projects."""
    from lib import report as reports

    kconf.only(environ, "export-results", "O")
    out = Path(kconf.typed(environ, "O") or root / "runs")
    runs = [RunFolder(path.parent) for path in sorted((root / "runs").glob("*/*/config.json"))]
    if not runs:
        raise Refused(f"no run below {root / 'runs'} yet. make trains one")
    for path in reports.export_results(runs, out):
        print(f"wrote     {shown(path, root)}  ({len(runs)} runs)")
    return 0


def _asked(root: Path, environ: Environ) -> Asked:
    """The product of what is configured. Raises Faults: all that is wrong, before anything starts."""
    base: Path | None = kconf.folder(root, environ) / DOTCONFIG
    if base and not base.exists():
        base = None
        print(f"note: no {DOTCONFIG} yet, so all defaults (make defconfig makes one)", file=sys.stderr)
    overrides = kconf.overrides(root, environ, base)
    if kconf.typed(environ, "NPROC"):
        overrides.append(Assignment("DEVICE", "cpu", "NPROC"))
    made = kconf.resolve(root, base=base, assignments=overrides)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    settings = Options(str(made.values["MODEL"]), made).fill(axes.Settings)
    typed = kconf.typed(environ, "AXES")
    asked = axes.listed(settings, typed)
    spare = {axis for axis, (symbol, _) in axes.lists(settings).items() if made.origins[symbol] == "default"}
    spare -= {word.partition("=")[0] for word in typed.split()}
    for axis in asked:
        if value := kconf.typed(environ, axis):  # OPTIMIZER=sgd on make's line: that one alone
            if axis not in spare:
                raise Refused(f"{axis}={value}: its values are listed, too. Give {axis} once")
            asked[axis] = (value,)
            spare.discard(axis)
    front = Front(root, base, overrides)
    known = list(front.tree.symbols)
    excluded = axes.rules(settings.matrix_exclude, known, "MATRIX_EXCLUDE")
    baseline = axes.rule(settings.matrix_baseline, known, "MATRIX_BASELINE").terms
    product = front.product(asked, excluded, spare)
    if not product.cells:
        raise Faults([f"the matrix is empty: MATRIX_EXCLUDE leaves all {product.excluded} combinations out"])
    models = {one.model for one in product.cells}
    named = made.origins["TRACKER_PROJECT"] != "default"
    own = names.project(models.pop() if len(models) == 1 else NAME, root)
    project = str(made.values["TRACKER_PROJECT"]) if named else own
    compared = {symbol: texts for symbol, texts in baseline.items() if symbol in asked}
    there = any(axes.Rule(compared).holds(one.axes) for one in product.cells)
    if not there and made.origins["MATRIX_BASELINE"] != "default":
        raise Refused(
            f"MATRIX_BASELINE={settings.matrix_baseline}: no cell is that. make test_matrix-dry-run lists them"
        )
    told = {symbol: texts[0] for symbol, texts in compared.items()} if there else {}
    return Asked(made, asked, product, told, root / "runs" / project, _name(made))


def _name(made: Resolved) -> str:
    """The matrix's: that of the defconfig that it comes from."""
    defconfig = made.provenance["defconfig"]
    return Path(defconfig).name if defconfig else NAME


def _say_what(asked: Asked) -> None:
    product = asked.product
    sizes = " × ".join(f"{len(texts)} {name}" for name, texts in asked.axes.items())
    less = [f"{product.excluded} left out by MATRIX_EXCLUDE"] if product.excluded else []
    less += [f"{product.equal} equal to others"] if product.equal else []
    for note in product.notes:
        print(f"note: {note}", file=sys.stderr)
    behind = f" ({', '.join(less)})" if less else ""
    print(f"cells     {len(product.cells)} of {sizes or 'one configuration'}{behind}")


def _drive(root: Path, environ: Environ, matrix: Matrix, asked_jobs: int) -> int:
    """Run what FILTER chooses of the matrix, then write the report."""
    _check_source(root, matrix)
    chosen = matrix.chosen(kconf.typed(environ, "FILTER"))
    limits = _limits(_base(matrix))
    nproc = kconf.typed(environ, "NPROC")
    slots = _slots(chosen, limits, nproc)
    jobs = asked_jobs or _all_at_once(chosen, slots)
    count = processes.on_cpu(nproc, "auto") if nproc else 1
    _opening(root, matrix, chosen, jobs, slots)
    work = engine.Engine(matrix, limits, jobs=jobs, slots=slots, board=status.Board(), processes=count)
    try:
        succeeded = work.run(chosen)
    except KeyboardInterrupt:
        print(f"stopped   {work.done + work.taken} of {len(chosen)} done. make continue goes on")
        raise
    reasons = status.failures(work.failed)
    print("\n".join([f"done      {work.done + work.taken} of {len(chosen)} cells", *reasons]))
    if work.failed:
        print(f"why       {shown(matrix.project, root)}/<cell>/trial-N.log")
        print("again     make continue, with the same code; make test_matrix, with yours")
    _report(root, matrix)
    return 0 if succeeded else 1


def _base(matrix: Matrix) -> Resolved:
    return kconf.resolve(matrix.source, base=matrix.path / DOTCONFIG, assignments=[])


def _limits(made: Resolved) -> engine.Limits:
    return Options(str(made.values["MODEL"]), made).fill(engine.Limits)


def _check_source(root: Path, matrix: Matrix) -> None:
    """Before anything is moved or started."""
    if not matrix.source.is_dir():
        raise Refused(f"{shown(matrix.source, root)}: the matrix's code is gone. make test_matrix starts it anew")


def _opening(root: Path, matrix: Matrix, chosen: list[Cell], jobs: int, slots: gpus.Slots | None) -> None:
    done = [run for run in map(matrix.run, chosen) if run.result is not None]
    other = sum(cell.last_event(run, "cell").get("code") not in (None, matrix.code) for run in done)
    print(f"matrix    {shown(matrix.path, root)}")
    print(f"code      {shown(matrix.source, root)}, frozen: what you edit now changes nothing here")
    if done:
        foreign = f", {other} by other code (make rerun FILTER=… trains them again)" if other else ""
        print(f"taken     {len(done)} of {len(chosen)} have a result already{foreign}")
    where = f"{len(slots.gpus)} GPUs" if slots else "the CPU"
    if len(done) < len(chosen):
        first = next(one for one in chosen if matrix.run(one).result is None)
        told = f"{len(chosen) - len(done)} cells on {where}, {jobs} at a time, the first one as"
        print(f"runs      {told}\n$ {_line(root, matrix, first)}")
    sys.stdout.flush()


def _line(root: Path, matrix: Matrix, one: Cell) -> str:
    """What trains the cell, as it is typed in the root."""
    return shlex.join([shown(Path(sys.executable), root), *matrix.words(one, root)])


def _slots(chosen: list[Cell], limits: engine.Limits, nproc: str) -> gpus.Slots | None:
    """The GPUs to share out; None when nothing of this computes on one. Raises Refused for GPUS that are not here."""
    wanted = [one for one in chosen if one.device in ("auto", "cuda") and one.gpus != 0]
    if nproc or not wanted:
        return None
    slots = gpus.here(limits.matrix_jobs_per_gpu)
    if not slots.gpus and all(one.device == "auto" and one.gpus == -1 for one in wanted):
        return None
    for one in wanted:
        engine.share(one, slots, 1)
    return slots


def _all_at_once(chosen: list[Cell], slots: gpus.Slots | None) -> int:
    """JOBS where nobody said: as many as the GPUs have room for, one on the CPU."""
    if slots is None:
        return 1
    return max(1, slots.count // max(engine.share(one, slots, 1) for one in chosen))


def _jobs(environ: Environ) -> int:
    """JOBS; 0 where it was not given."""
    text = kconf.typed(environ, "JOBS")
    if text and (not text.isdecimal() or not 1 <= int(text) <= 1024):
        raise Refused(f"JOBS={text}: expected a number of cells at a time, from 1 to 1024")
    return int(text or 0)


def _found(root: Path, environ: Environ) -> Matrix:
    return find(root / "runs", kconf.typed(environ, "MATRIX"))


def _estimate(
    environ: Environ, made: Resolved, project: Path, left: list[Cell], *, done: int, asked_jobs: int,
    running: Sequence[float | None] = (),
) -> None:  # fmt: skip
    """Time for what is left, by what cells of this kind took in this project; `running` are seconds, where known."""
    if not left and not running:
        print(f"estimate  nothing is left to run, {done} done")
        return
    try:
        slots = _slots(left, _limits(made), kconf.typed(environ, "NPROC"))
    except Refused as why:
        print(f"note: {why}", file=sys.stderr)  # here they can't be run, but counted
        slots = None
    times, jobs = _past(project, left), asked_jobs or _all_at_once(left, slots)
    seconds = times.left(left, running, jobs)
    count = f"{len(left)} to run, {f'{len(running)} running, ' if running else ''}{done} done"
    if seconds is None:
        print(f"estimate  {count}; nothing like them was run yet, so nobody knows how long")
        return
    hours = [(times.expected(one) or 0.0) / HOUR_S for one in left]
    used = [0 if one.device == "cpu" else engine.share(one, slots, jobs) if slots else one.gpus for one in left]
    spent = f"{sum(hours):.2f} hours of one job"
    if gpu_hours := sum(own * count for own, count in zip(hours, used, strict=True) if count > 0):
        spent = f"{gpu_hours:.2f} GPU-hours"
    print(f"estimate  {count}: {duration(seconds)} with JOBS={jobs}, {spent}")


def _past(project: Path, left: list[Cell]) -> Times:
    """What cells of this project took."""
    times, known = Times(), {one.work: one for one in left}
    for path in project.glob("*/result.json"):
        run = RunFolder(path.parent)
        result, about = run.result, cell.last_event(run, "cell")
        if result is not None and about.get("work") in known:
            like = Cell(about["id"], run.name, about["axes"], about["work"], 0, "", 0)
            times.add(like, cell.seconds(run, result) or START_S)
    return times


def _report(root: Path, matrix: Matrix) -> None:
    from lib import report as reports

    cells = {run: one for one in matrix.cells if (run := matrix.run(one)).path.exists()}
    if not cells:
        return
    reports.build(
        list(cells), matrix.path, title=f"{matrix.project.name}: {matrix.name}",
        axes={str(run.path): one.axes for run, one in cells.items()},
        baseline=matrix.baseline or None,
        commands={str(run.path): _line(root, matrix, one) for run, one in cells.items()},
        failures={str(run.path): state.why for run in cells if (state := cell.state(run)).name == "failed"},
    )  # fmt: skip
    print(f"report    {shown(matrix.path, root)}/index.html (results.csv, results.md)")


VERBS: dict[str, Callable[[Path, Environ], int]] = {
    "test-matrix": test_matrix,
    "test-matrix-dry-run": dry_run,
    "continue": go_on,
    "rerun": rerun,
    "status": where,
    "estimate": estimate,
    "report": report,
    "graphs": report,
    "export-results": export,
}
