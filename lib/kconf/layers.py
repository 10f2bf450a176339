"""From what files and people say to values: every line is taken, or there is a fault or a note that says why not."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from lib import names
from lib.kconf.tree import Tree
from lib.options import Assignment

LONGEST_QUOTE = 150  # characters of what was typed, in a message
ENVIRONMENT = "environment"  # the origin of a TRACKER that nobody typed on the command line

# As text: `re` compiles each of them when it is first needed, and keeps it.
_LINE = r"CONFIG_([A-Za-z0-9_]+)=(.*)"
_OFF = r"# CONFIG_([A-Za-z0-9_]+) is not set"
_NUMBER = r":([0-9]{1,9})$"
_QUOTED = r'"((?:[^\\"]|\\.)*)"'


class Fault(NamedTuple):
    line: str
    assignment: Assignment  # of a line that is no assignment at all: one without a name


class Settled(NamedTuple):
    taken: dict[str, Assignment]  # by symbol: the assignment that decides its value
    faults: list[Fault]
    notes: list[str]


def read_lines(tree: Tree, text: str, place: str) -> tuple[list[Assignment], list[Fault]]:
    """The assignments of a defconfig, a fragment or a .config."""
    assignments, faults = [], []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):  # some editors begin a file with it
        line, origin = line.rstrip(), f"{place}:{number}"
        if match := re.fullmatch(_LINE, line):
            assignment = Assignment(match[1], match[2], origin)
            if tree.is_string(assignment.name):
                whole = re.fullmatch(_QUOTED, assignment.value)
                if not whole:
                    faults.append(fault(assignment, f'expected a string in double quotes: "{quoted(match[2])}"'))
                    continue
                assignment = assignment._replace(value=re.sub(r"\\(.)", r"\1", whole[1]))
            assignments.append(assignment)
        elif match := re.fullmatch(_OFF, line):
            assignments.append(Assignment(match[1], "n", origin))
        elif line.strip() and not line.lstrip().startswith("#"):
            hint = f"; did you mean CONFIG_{line}?" if line.partition("=")[0] in tree.symbols else ""
            reason = f"malformed line '{quoted(line)}'{quoted(hint)}"
            faults.append(Fault(f"{origin}: {reason}", Assignment("", line, origin)))
    return assignments, faults


def layered(assignments: Iterable[Assignment]) -> list[list[Assignment]]:
    """Neighbours of one origin make a layer."""
    return [list(layer) for _, layer in groupby(assignments, key=lambda assignment: assignment.layer)]


def settle(tree: Tree, layers: Sequence[Sequence[Assignment]], wrong: Sequence[Fault] = ()) -> Settled:
    """Gives the tree the values that the layers ask for, low to high, and says what was asked for in vain.

    The faults, with those that were found `wrong` in the same layers before, come in the order of the lines.
    """
    faults = list(wrong)
    sound: list[list[Assignment]] = []
    for layer in layers:
        expanded, refused = _expand(tree, layer)
        kept, at_odds = _agreeing(tree, expanded)
        sound.append(kept)
        faults += refused + at_odds
    taken = _merge(tree, sound)
    put(tree, taken)
    lost = [assignment for assignment in taken.values() if not _holds(tree, assignment)]
    notes, unmet = [], []
    for assignment in lost:
        del taken[assignment.name]
        culprit = _culprit(tree, sound, assignment)
        put(tree, taken)
        if culprit:
            notes.append(f"{assignment.origin}: {assignment.name} dropped, {culprit.said}")
        else:
            unmet.append((fault(assignment, _why_lost(tree, assignment)), tree.needs_text(assignment.name)))
    faults += _first_causes(tree, faults, unmet)
    return Settled(taken, _in_order(faults, layers) if faults else [], notes)


def fault(assignment: Assignment, reason: str) -> Fault:
    """`command line: BATCH_SIZE=1e3: expected int`; a flag is named the way it was typed."""
    return Fault(f"{quoted(assignment.said)}: {reason}", assignment)


def quoted(text: str) -> str:
    """What somebody typed, as a message has it: on one line, without secrets, and not too much of it."""
    from lib.journal import secrets  # who made no mistake needs no message

    text = secrets.scrubbed(text)
    short = text[:LONGEST_QUOTE] + "…" if len(text) > LONGEST_QUOTE else text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in short)


def ambient_notes(assignments: Iterable[Assignment]) -> list[str]:
    """Of a TRACKER that nobody typed on the command line. (What a .config keeps of it names the trackers' symbols.)"""
    ambient = ("TRACKER", ENVIRONMENT)
    return [f"{item.text} taken from the environment" for item in assignments if (item.name, item.origin) == ambient]


def _first_causes(tree: Tree, faults: Sequence[Fault], unmet: Sequence[tuple[Fault, str]]) -> list[Fault]:
    """The faults of lines that were lost, with what each needs, but for those that need what has a fault itself."""
    at_fault = {fault.assignment.name for fault in (*faults, *(fault for fault, _ in unmet))}
    for name in at_fault & {"TRACKER", *tree.named_choices}:
        members = (member.name for member in tree.named_choices.get(name, {}).values())
        at_fault |= set(tree.trackers.values()) if name == "TRACKER" else set(members)
    causes = [fault for fault, needs in unmet if not at_fault & set(re.findall(r"\w+", needs))]
    return causes if causes or faults else [fault for fault, _ in unmet]


def _in_order(faults: Iterable[Fault], layers: Sequence[Sequence[Assignment]]) -> list[Fault]:
    """As the user wrote them: layer by layer, line by line."""
    ranks = {item.layer: rank for rank, layer in enumerate(layers) for item in layer}
    typed = {(item.origin, item.text): position for layer in layers for position, item in enumerate(layer)}

    def place(fault: Fault) -> tuple[int, int]:
        asked = fault.assignment
        number = re.search(_NUMBER, asked.origin)
        return ranks.get(asked.layer, -1), int(number[1]) if number else typed.get((asked.origin, asked.text), -1)

    return sorted(faults, key=place)


def _expand(tree: Tree, layer: Sequence[Assignment]) -> tuple[list[Assignment], list[Fault]]:
    """Assignments of symbols that have a prompt, each checked by itself; TRACKER and named choices are unfolded."""
    expanded, faults = [], []
    for assignment in layer:
        if assignment.name == "TRACKER":
            try:
                expanded += _tracker_switches(tree, assignment)
            except ValueError as error:
                place = f"{assignment.origin}: " if re.search(_NUMBER, assignment.origin) else ""  # a file's line
                faults.append(Fault(f"{place}{quoted(assignment.text)}: {quoted(str(error))}", assignment))
        elif assignment.name not in tree.symbols:
            faults.append(_unknown(tree, assignment))
        elif members := tree.named_choices.get(assignment.name):
            if assignment.value in members:
                chosen = members[assignment.value].name
                expanded.append(assignment._replace(name=chosen, value="y", typed=assignment.text))
            else:
                faults.append(
                    fault(
                        assignment,
                        f"unknown value{names.near(assignment.value, members)} (known: {', '.join(members)})",
                    )
                )
        elif not tree.prompts[assignment.name]:
            where = tree.place(assignment.name)
            faults.append(fault(assignment, f"derived (no prompt), cannot be set. Defined at {where}"))
        elif reason := tree.fault(assignment.name, assignment.value):
            faults.append(fault(assignment, reason))
        else:
            expanded.append(assignment)
    return expanded, faults


def _tracker_switches(tree: Tree, assignment: Assignment) -> list[Assignment]:
    """TRACKER sets every tracker's symbol: those that it does not name become n."""
    if not assignment.value.isprintable():
        raise ValueError("control characters cannot be stored")
    wanted = names.trackers(assignment.value, list(tree.trackers))
    return [
        assignment._replace(name=symbol, value="y" if tracker in wanted else "n", typed=assignment.text)
        for tracker, symbol in tree.trackers.items()
    ]


def _unknown(tree: Tree, assignment: Assignment) -> Fault:
    settable = [name for name, prompt in tree.prompts.items() if prompt or name in tree.named_choices]
    hint = names.near(assignment.name, settable)
    if assignment.layer != assignment.origin:  # a line of a file: its number says enough
        return Fault(f"{assignment.origin}: unknown symbol {quoted(assignment.name)}{hint}", assignment)
    return fault(assignment, f"unknown symbol{hint}")


def _agreeing(tree: Tree, layer: Sequence[Assignment]) -> tuple[list[Assignment], list[Fault]]:
    """The assignments of one layer without those that contradict an earlier one of the same layer."""
    first: dict[Any, Assignment] = {}
    kept, faults = [], []
    for assignment in layer:
        choice = tree.symbols[assignment.name].choice
        subjects = [*([choice] if choice and assignment.value == "y" else []), assignment.name]
        earlier = next((first[subject] for subject in subjects if subject in first), assignment)
        if (earlier.name, earlier.value) != (assignment.name, assignment.value):
            faults.append(fault(assignment, f"conflicts with {quoted(earlier.text)} at {earlier.origin}"))
        elif earlier is assignment:  # else it says the same once more
            kept.append(assignment)
            first.update(dict.fromkeys(subjects, assignment))
    return kept, faults


def _merge(tree: Tree, layers: Sequence[Sequence[Assignment]]) -> dict[str, Assignment]:
    """By symbol, the highest assignment; of a choice, the highest selection only."""
    merged: dict[str, Assignment] = {}
    for assignment in (assignment for layer in layers for assignment in layer):
        choice = tree.symbols[assignment.name].choice
        if choice and assignment.value == "y":
            for member in choice.syms:
                merged.pop(member.name, None)
        merged[assignment.name] = assignment
    return merged


def put(tree: Tree, taken: Mapping[str, Assignment]) -> None:
    """Gives the tree these values and no others."""
    tree.kconf.unset_values()
    for assignment in taken.values():
        tree.symbols[assignment.name].set_value(assignment.value)


def _holds(tree: Tree, assignment: Assignment) -> bool:
    symbol = tree.symbols[assignment.name]
    if tree.kind(assignment.name) == "bool":
        return bool(symbol.str_value == assignment.value)
    return bool(symbol.visibility and symbol.str_value == assignment.value)


def _culprit(tree: Tree, layers: Sequence[Sequence[Assignment]], lost: Assignment) -> Assignment | None:
    """The assignment of a higher layer that made this one invisible; None when it never was visible."""
    own = max(index for index, layer in enumerate(layers) if lost in layer)
    below = list(layers[: own + 1])
    above = [assignment for layer in layers[own + 1 :] for assignment in layer]
    symbol = tree.symbols[lost.name]
    put(tree, _merge(tree, below))
    if not above or not symbol.visibility:
        return None
    for count, assignment in enumerate(above, 1):
        put(tree, _merge(tree, [*below, above[:count]]))
        if not symbol.visibility:
            return assignment
    return None


def _why_lost(tree: Tree, assignment: Assignment) -> str:
    """Asked with the final values in the tree, without the assignment itself."""
    name = assignment.name
    if tree.needs(name):
        now = tree.now_text(tree.needs(name))
        return f"needs {tree.needs_text(name)}" + (f" (now {now})" if now else "")
    if reason := tree.out_of_range(name, assignment.value):
        return reason
    if tree.symbols[name].choice:
        return "one member of a choice is always on; set another one to y instead"
    return "another symbol selects it"
