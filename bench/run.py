"""Run the benchmark and write its results: summary.json, report.md, roofline.png and, for this machine alone,
rows.jsonl, to which each row is appended as soon as it is measured.

python bench/run.py [--device cpu|cuda|emulated] [--quick] [--out DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import emulated
import report
from environment import RESULTS, environment, name_of, result_folder, write_result

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda", "emulated"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results go to DIR/HARDWARE")
    parser.add_argument("--quick", action="store_true", help="a selection of the rows, with less time for each")
    parser.add_argument("--seconds", type=float, help="time for each row")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no row is begun")
    parser.add_argument("--rows-only", action="store_true", help="leave the rest to bench/report.py")
    parser.add_argument("--append", action="store_true", help="keep the rows of the last run")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a peer on the CPU too")
    parser.add_argument("-k", dest="select", default="", help="only rows whose name matches, as in pytest")
    options = parser.parse_args()

    if options.device == "emulated":
        emulated.be_the_driver()
    out = result_folder(environment("cuda" if options.device == "cuda" else "cpu"), options.out)
    raw = out / "rows.jsonl"
    if not options.append:
        raw.unlink(missing_ok=True)
    seconds = options.seconds or (0.15 if options.quick or options.device == "cuda" else 0.3)
    command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-k", options.select, f"--bench-rows={raw}"]
    command += ["-W", "default", "-W", "error:fastact:RuntimeWarning"]  # not what is an error in tests
    command += ["-p", "no:cacheprovider"]
    command += [f"--bench-device={options.device}", f"--bench-seconds={seconds}", f"--bench-budget={options.budget}"]
    command += ["--bench-quick"] * options.quick + ["--bench-compile"] * options.compile
    status = subprocess.run(command).returncode
    if options.rows_only:
        return status
    measured = report.read(raw) if raw.exists() else {"rows": []}
    if not measured["rows"]:
        return status or 1

    write_result(out, "summary", report.summarise(measured))
    summary = report.write(out)
    rows, lost = summary["rows"], report.losses(summary["rows"])
    print(
        f"\n{name_of(summary['environment'])}: time of torch / time of fastact, worst first; ** where fastact loses\n"
    )
    print(report.short_table(summary))
    print(f"\nfastact loses in {len(lost)} of {len(rows)} rows; {len(summary['missing'])} rows were not measured.")
    print(f"Written to {out}: rows.jsonl, summary.json, report.md, roofline.png")
    return status


if __name__ == "__main__":
    sys.exit(main())
