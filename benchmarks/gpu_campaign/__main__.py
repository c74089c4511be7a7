"""One part per command: ``python -m benchmarks.gpu_campaign PART --out FOLDER``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu_campaign import check, heldout, probe, profiling, ready, selection, sparse, update
from benchmarks.gpu_campaign.settings import OutOfTimeError, Settings
from calibration_data import CalijouleError

PARTS: dict[str, Callable[[Settings], None]] = {
    "ready": ready.run,
    "probe": probe.run,
    "check": check.run,
    "quick": profiling.run_quick,
    "full": profiling.run_full,
    "fit": profiling.run_fit,
    "heldout": heldout.run,
    "sparse": sparse.run,
    "update": update.run,
    "selection": selection.run,
}
GO_ON = 75
"""Exit code of a part that ran out of time; the same command continues it (EX_TEMPFAIL of sysexits.h)."""

FAILED = 70
"""Exit code of a part that a driver or a compiler ended (EX_SOFTWARE)."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_campaign", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; parts read each other's")
    parser.add_argument("--device", help="default: cuda:0; in a dry run sim:datacenter-gpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop before, to be continued")
    parser.add_argument("--dry-run", action="store_true", help="everything but the kernels, small")
    options = parser.parse_args()
    settings = Settings(
        out=options.out,
        device_name=options.device or ("sim:datacenter-gpu" if options.dry_run else "cuda:0"),
        dry_run=options.dry_run,
        seconds=60 * options.minutes,
    )
    # A home that cannot be written must not end a campaign.
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "calijoule-triton"))
    try:
        PARTS[options.part](settings)
    except OutOfTimeError as pause:
        print(f"{options.part}: {pause}", file=sys.stderr)
        return GO_ON
    except CalijouleError as error:
        print(f"{options.part}: {error}", file=sys.stderr)
        return error.exit_code
    # Of a driver or a compiler: the whole story belongs in what comes back, and the next part has its turn.
    except Exception as error:
        settings.file(f"{options.part}.error").write_text(traceback.format_exc())
        kept = f"all before it is kept, the traceback is in {options.out}/{options.part}.error"
        print(f"{options.part}: {type(error).__name__}: {error}; {kept}", file=sys.stderr)
        return FAILED
    print(f"{options.part}: done, see {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
