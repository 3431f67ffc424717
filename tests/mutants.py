"""What the tests do not see: faults planted in a copy of the tree, one at a time, and the test that sees each.

    make mutants ARGS="--part path triton --sample 12 --seed 1"

A fault is a changed comparison, sign, constant, argument, dtype or condition, or a statement or guard left out. It
counts if it compiles to something else: a compile error is no fault, nor is what leaves object code (or, of Python, the
syntax tree) as it was. Crashes and hangs are seen. What is not seen is either equivalent, then its like belongs into
EXCLUDED, or a blind spot, then the test that sees it belongs into the suite.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

_KERNELS = (
    "values gated maxout softmax gradients memory threads kernels accuracy dispatch ops every_size subnormals arguments"
)
PARTS = {
    "cpp": f"csrc/*/*.h csrc/*/*.cpp; cpu: {_KERNELS}",
    "python": f"fastact/*.py; cpu: modules cli {_KERNELS} autocast build torch_suite warmup bundle docs peers; "
    "emulated: gradients fallback",
    "triton": f"fastact/triton/*.py; emulated: launch gpu_ops kernels {_KERNELS} fallback; cpu: warmup sass",
    "gpu": "csrc/gpu/*.h fastact/gpu.py; emulated: launch fallback gpu_ops kernels softmax maxout gated bundle",
    "monitor": "fastact/monitor.py; cpu: monitor",
    "dispatch": "fastact/dispatch.py fastact/ops.py; cpu: dispatch ops every_size arguments autocast gated softmax "
    "values maxout gradients modules; emulated: dispatch fallback gradients",
}
"""Their files; then, by device, their tests in the order in which they are run."""

EXCLUDED_FILES = "fastact/tools/plot.py csrc/activations/lut8_tables.py"  # pictures, a generator
EXCLUDED = {
    r"[gG]rain\b|kAlwaysOurs|kFewestOfTorch|_CLEARLY": "from which size on something pays",
    r"prefetch|distance|__builtin_expect": "tells the processor what comes",
    r"[hH]uge|HUGE|madvise|\bpage\b|uintptr_t|reserve": "where memory comes from",
    r"\bk(All|Short|Written|Part|Chunk|Block|Grain)\b.*= |chains = |most = |rows_together": "work at a time",
    r"(most_promoted|in_cache|part_size|steps_in_T) = ": "the same",
    r"warps|\bk(Short|SideBySide|ProgramsPer)|\blargest\b|block=": "the size of programs",
    r"^\s*(#|template|using|typedef|namespace|static_assert|assert|import|from|@|class|struct|def)\b": "no code",
    r"% 16\b": "how wide the accesses of a GPU are",
    r"inference_mode\(False\), torch.no_grad": "either mode adds alike",
    r"2\.0\*\*-60": "on either side of which kernels and torch give the same",
    r"stacklevel|__all__|frozenset|isinstance|samples=|^ +[{] +: ": "order, place, and what tests choose",
}
"""Lines on which changes have no effect, or none but on speed, and why."""
# Of instruction sets, one has the fault; optimised less, the library asks for lines early elsewhere.
DESELECTED = "not (test_instruction_sets_agree or test_lines_can_be_asked_for_early)"

OPERATORS = {
    "<": "<= >=", "<=": "< >", ">": ">= <=", ">=": "> <", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "/",
    "/": "*", "//": "*", "%": "//", "&": "|", "|": "&", "^": "|", "<<": ">>", ">>": "<<", "&&": "||", "||": "&&",
    "and": "or", "or": "and", "+=": "-= =", "-=": "+=", "|=": "&= =", "*=": "/=",
}  # fmt: skip
PAIRS = """min max, at_least at_most, float32 float64, float16 bfloat16, float double, int32 int64, True False,
true false, size stride, sizes strides, shape stride, rows columns, row column, first offset, begin end, high low,
inner outer, value gate, grad saved, any all, sin cos, lower upper, forward backward, x y, steps lanes, values gates"""
WORDS = {a: b for pair in PAIRS.split(",") for a, b in (pair.split(), pair.split()[::-1])}
NUMBER = r"(?<![\w.])(?:0x[\da-f.]+p[-+]?\d+f?|\d+\.\d*(?:e-?\d+)?f?|\d+)(?![\w.'])"
NAME = r"[\w.]+(?:\[\w+\])?"
CALL = rf"{NAME}(?:\([^()]*\))?"
AND = r"(?:&&|\|\||and|or)"


class Fault(NamedTuple):
    file: str
    number: int  # of the line, from 0
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number + 1}\n    - {self.old.strip()}\n    + {self.new.strip()}"


def code_only(text: str, python: bool) -> list[str]:
    """The lines with blanks for comments and strings, but for those of numbers."""

    def blank(found: re.Match) -> str:
        return found[0] if re.match(r'"-?0x', found[0]) else re.sub(r"[^\n]", " ", found[0])

    comment = "#.*" if python else "//.*"
    return re.sub(rf'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|{comment}', blank, text).splitlines()


def changes(lines: list[str], number: int, old: str, python: bool) -> Iterator[tuple[int, int, str]]:
    """What may be put in the place of which part of a line: `lines` are code alone, `old` is as it stands."""
    line, around = lines[number].rstrip(), "\n".join(lines[max(0, number - 20) : number + 5])
    for found in re.finditer(r"(?<= )(\S+)(?= )", line):
        for new in OPERATORS.get(found[0], "").split():
            yield *found.span(), new if python or new != "//" else "/"
    for found in re.finditer(NUMBER, line):
        negative = line[: found.start()].endswith("-")
        if found[0].isdigit():
            yield from ((*found.span(), str(int(found[0]) + step)) for step in (1, -1))
        elif re.search("[1-9]", found[0].removeprefix("0x").partition("p")[0]):
            yield found.start() - negative, found.end(), found[0] if negative else f"-{found[0]}"
    for found in re.finditer(
        r"(?:(?<=[(\[{,=:?] )|(?<=[(\[{])|(?<=return ))-(?=[a-zA-Z(])|\bnot (?!in\b)|!(?=[\w(])", line
    ):
        yield *found.span(), ""
    for found in re.finditer(r"(\.?)\b(?<!strict=)([a-zA-Z]\w*)\b", line):
        if new := WORDS.get(found[2]):  # which must mean something here
            if new.lower() in ("true", "false") or re.search(rf"{'[.]' if found[1] else '(?<![.])'}\b{new}\b", around):
                yield *found.span(2), new
    for found in re.finditer(r"(?<=\bif )(.+)(?=:$)" if python else r"(?<=\bif )\((.*)\)(?= |$)", line):
        condition = old[slice(*found.span(1))]
        yield *found.span(), f"not ({condition})" if python else f"(!({condition}))"
    for found in re.finditer(rf"({CALL})( if .+ else )({CALL})" if python else rf"\? ({CALL})( : )({CALL})", line):
        yield found.start(1), found.end(3), "".join(old[slice(*found.span(group))] for group in (3, 2, 1))
    for found in re.finditer(rf"(?<=[( ])(?:not |!)?{CALL} {AND} | {AND} (?:not |!)?{CALL}|^ +{AND} .*[^{{:;]$", line):
        yield *found.span(), ""
    for found in re.finditer(rf"(?<!fma\()(?<!_place\()(?<=\()({NAME})(, )({NAME})(?=[,)])", line):
        yield *found.span(), f"{found[3]}, {found[1]}"
    end = "" if python else ";"
    if found := re.fullmatch(
        rf"\s*(?:return|continue|break|({NAME}) [-+*/|&]?= .*|{NAME}\(.*\)|if \(.*\) return.*){end}", line
    ):
        before = around[: around.rindex(line)]
        if not found[1] or not found[1].isidentifier() or re.search(rf"\b{found[1]}\b", before):  # has a value without
            yield len(line) - len(line.lstrip()), len(line), "pass" if python else ";"


def candidates(name: str, tree: Path, draw: random.Random) -> Iterator[Fault]:
    """Faults on lines drawn at random, one on each."""
    sites = []
    for path in sorted(each for pattern in PARTS[name].split("; ")[0].split() for each in tree.glob(pattern)):
        file = str(path.relative_to(tree))
        if file in EXCLUDED_FILES or (name == "python" and path.stem in PARTS):
            continue
        text = path.read_text()
        lines = code_only(text, path.suffix == ".py")
        for number, old in enumerate(text.splitlines()):
            if not any(re.search(pattern, lines[number]) for pattern in EXCLUDED):
                if found := list(changes(lines, number, old, path.suffix == ".py")):
                    sites.append((file, number, old, found))
    draw.shuffle(sites)
    for file, number, old, found in sites:
        begin, end, new = draw.choice(found)
        yield Fault(file, number, old, old[:begin] + new + old[end:])


def syntax(text: str) -> str:
    """The tree of Python code but for annotations."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if hasattr(node, name):
                setattr(node, name, ast.Constant(None) if isinstance(node, ast.AnnAssign) else None)
    return ast.dump(tree)


class Build:
    """The libraries of a tree, and how to make them again after a change."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        # Optimised less, the kernels are made in half the time, and give the same bits.
        printed = self.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], CXXFLAGS="-O1")
        commands = [line.split() for line in (printed or "").splitlines() if " -o " in line]
        self.links = [each for each in commands if "-shared" in each]
        self.compilations = {each[-1]: each for each in commands if "-c" in each}  # by object file
        self.sources = {target: self.run([*each[:-2], "-MM"]) for target, each in self.compilations.items()}
        flags = Path("/proc/cpuinfo").read_text()
        sets = {"Avx512": ("avx512dq", "avx512"), "Avx2": ("avx2", "avx2"), "Baseline": ("", "default")}
        self.sets = {name: capability for name, (flag, capability) in sets.items() if flag in flags}

    def run(self, command: list[str], **environment: str) -> str | None:
        """What it prints, unless it fails."""
        environment = {**os.environ, **environment}
        done = subprocess.run(command, cwd=self.tree, capture_output=True, text=True, env=environment)
        return done.stdout if done.returncode == 0 else None

    def differs(self, target: str) -> bool:
        """Whether the object file is another than it was, made again."""
        saved = (self.tree / target).rename((self.tree / target).with_suffix(".saved"))
        made = self.run(self.compilations[target]) is not None
        return made and (self.tree / target).read_bytes() != saved.read_bytes()

    def meet(self, file: str) -> dict[str, str] | None:
        """The environment in which tests meet the change to a file; nothing where it makes none."""
        targets = [target for target, sources in self.sources.items() if file in sources]
        kernels = [target for target in targets if "/kernels_" in target]
        # Of formulas other sources read what they save. One instruction set will do, the widest that shows the fault.
        if kernels and not re.search("/(block|ops|operands|formula)[.]h", file):
            for name, capability in self.sets.items():
                if any(self.differs(target) for target in kernels if f"_{name}." in target):
                    return {"FASTACT_CPU_CAPABILITY": capability} if self.link() else None
            return None
        different = [target for target in targets if self.differs(target)]
        return {} if different and self.link() else None

    def link(self) -> bool:
        """Whether that works."""
        for each in self.links:
            if self.run(each) is None:
                return False
            output = self.tree / each[each.index("-o") + 1]
            (self.tree / "fastact" / output.name).unlink(missing_ok=True)
            shutil.copy(output, self.tree / "fastact")
        return True

    def restore(self) -> None:
        for saved in list(self.tree.glob("build/**/*.saved")):
            saved.rename(saved.with_suffix(".o"))
        self.link()


def files_of(stem: str) -> list[str]:
    """The tests of that name."""
    return [str(path.relative_to(ROOT)) for path in ROOT.glob(f"tests/**/test_{stem}.py")]


def runs(name: str, fault: Fault | None) -> Iterator[list[str]]:
    """Arguments of pytest: the tests of a file's own name and those of its family of formulas come first."""
    sys.path.insert(0, str(ROOT))
    from fastact.catalogue import ACTIVATIONS

    stem = Path(fault.file).stem if fault else ""
    _, *tests_of_part = PARTS[name].split("; ")
    device = tests_of_part[0].split(":")[0]
    tests = [(f"{device}: {stem}", DESELECTED)] if files_of(stem) else []
    if family := " or ".join(row.function for row in ACTIVATIONS.values() if row.family == stem):
        tests.append((f"{device}: values accuracy gradients", family))
    for run, only in (*tests, *((run, DESELECTED) for run in tests_of_part)):
        device, stems = run.split(": ")
        files = [file for stem in dict.fromkeys(stems.split()) for file in files_of(stem)]
        yield ["-x", "-q", "-p", "no:cacheprovider", "--device", device, "-k", only, *files]


def first_failure(tree: Path, name: str, fault: Fault | None, environment: dict[str, str], patience: float) -> str:
    """The test that fails, or how all of them end; nothing where none does."""
    for arguments in runs(name, fault):
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), **environment}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34)),
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "a hang"
        if process.returncode not in (0, 5):  # 5: none of these tests is of that family
            found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", output, re.MULTILINE)  # or, in a crash's traceback,
            found = found or re.search(r'tests/(test_\w+\.py", line \d+ in \w+)', output)
            return found[1] if found else f"exit status {process.returncode}"
    return ""


def examine(name: str, sample: int, seed: int) -> tuple[int, int]:
    """How many faults were planted in a part, and how many of them seen."""
    tree, draw = ROOT / "build" / "mutants" / name, random.Random(f"{name} {seed}")
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    libraries = [] if name == "cpp" else [str(each.relative_to(ROOT)) for each in ROOT.glob("fastact/*.so")]
    for file in (*listed.stdout.splitlines(), *libraries):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tree / file)
    build = Build(tree) if name == "cpp" else None
    begin = time.monotonic()
    if failure := first_failure(tree, name, None, {}, patience=7200):
        raise SystemExit(f"{name}: fails without a fault: {failure}")
    patience = 60 + 5 * (time.monotonic() - begin)  # seconds: tests that take longer hang
    planted = seen = 0
    for fault in candidates(name, tree, draw):
        if planted == sample:
            break
        path, begin = tree / fault.file, time.monotonic()
        right = path.read_text()
        lines = right.splitlines()
        lines[fault.number] = fault.new
        path.write_text("\n".join([*lines, ""]))
        try:
            same = not build and syntax(path.read_text()) == syntax(right)
            environment = build.meet(fault.file) if build else {}
            if environment is not None and not same:
                failure = first_failure(tree, name, fault, environment, patience)
                planted, seen = planted + 1, seen + bool(failure)
                print(f"{name} {planted}, {time.monotonic() - begin:.0f} s: {fault}")
                print(f"    {f'seen by {failure}' if failure else 'NOT SEEN'}", flush=True)
        except SyntaxError:
            continue
        finally:
            path.write_text(right)
            if build:
                build.restore()
    return planted, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sample", type=int, default=12, help="faults for each part")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = {name: examine(name, arguments.sample, arguments.seed) for name in arguments.part}
    counts["in all"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    for name, (planted, seen) in counts.items():
        print(f"{name}: {seen} of {planted} seen, {seen / max(1, planted):.0%}")


if __name__ == "__main__":
    main()
