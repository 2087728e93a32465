"""Measures the peak memory of `glm5bench load` for a point of 2,560 requests of 1,024 chunks, including the point file.

python benchmarks/client_memory.py
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZE = ("-c", "256", "--prompts", "2560", "--input-tokens", "8192", "--output-tokens", "1024", "--warmups", "0", "--processes", "1")


def main() -> None:
    command = [sys.executable, str(Path(__file__).with_name("truth.py")), "--rate", "130", "--ttft-s", "0.3", "--phase-jitter"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server, tempfile.TemporaryDirectory() as folder:
        assert server.stdout
        url = f"http://127.0.0.1:{server.stdout.readline().split()[1]}"
        subprocess.run([sys.executable, "-m", "glm5bench", "load", url, *SIZE, "-o", f"{folder}/p.h5"], cwd=ROOT, check=True)
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of children that have ended; the server is still running
        print(f"peak memory {peak_mb:.0f} MiB; point file {Path(folder, 'p.h5').stat().st_size / 2**20:.0f} MiB")
        server.terminate()


if __name__ == "__main__":
    main()
