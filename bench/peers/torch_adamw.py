#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's fused AdamW, all fp32, and puts bench_adam beside it in the same run.

  torch_adamw.py --params 1e8,1e9                          on CUDA where it is, else on the CPU
  torch_adamw.py --device cpu --params 1e8 --threads 1,8,16
  torch_adamw.py --ours build/bin/bench_adam               bench_adam before and after, and ratios
  torch_adamw.py --deepspeed-step                          also a sequence of torch operations like
                                                           the one around DeepSpeed's step

Times are medians; 28 bytes a parameter are counted (gradient read, weight and both moments read
and written, 4 bytes each). The sequence of --deepspeed-step is made of PyTorch's own operations and
stands in where DeepSpeed is not installed; it is not DeepSpeed.

Exit codes: 0 measured, 1 bench_adam failed, 2 bad command line, 77 PyTorch is not installed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

BYTES_PER_PARAM = 28
LOSS_SCALE = 128.0


def numbers(text):
    values = [float(word) for word in text.split(",")]
    if any(value < 1 or value != int(value) for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers above 0")
    return [int(value) for value in values]


def read_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=numbers, help="parameters, such as 1e8,1e9 "
                        "(CUDA 1e8,1e9; CPU 2e7)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--threads", type=numbers, help="on the CPU (1, 2, 4 ... and all)")
    parser.add_argument("--layout", default="master,remainder,remainder-bf16,bf16-8bit,bf16",
                        help="bench_adam's layouts (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds; medians are taken (5)")
    parser.add_argument("--ours", metavar="BENCH_ADAM", help="bench_adam, run before and after")
    parser.add_argument("--deepspeed-step", action="store_true",
                        help="also time cast, un-scale, fused AdamW, cast as single operations")
    parser.add_argument("--json", metavar="FILE", help="write the results; - is standard output")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat must be at least 1")
    if arguments.ours and not os.access(arguments.ours, os.X_OK):
        parser.error(f"{arguments.ours} is no program")
    return arguments


def say(arguments, text=""):
    print(text, file=sys.stderr if arguments.json == "-" else sys.stdout, flush=True)


class Peer:
    """Weights, gradient and moments of one size on one device."""

    def __init__(self, torch, device, count, deepspeed_step):
        self.torch, self.device, self.count = torch, device, count
        # The same 2^20 values repeat, as in bench_adam: drawing 1e9 would take longer than the run.
        def values(deviation):
            sample = torch.randn(min(count, 1 << 20), device=device) * deviation
            return sample.repeat(-(-count // sample.numel()))[:count].clone()
        self.weight = torch.nn.Parameter(values(0.02))
        self.weight.grad = values(1e-3)
        self.optimizer = torch.optim.AdamW([self.weight], lr=1e-3, weight_decay=0.01, fused=True)
        self.low = None
        if deepspeed_step:
            self.low = (self.weight.grad * LOSS_SCALE).to(torch.bfloat16)
            self.cast = torch.empty(count, device=device, dtype=torch.bfloat16)
            self.clip = torch.tensor(0.5, device=device)

    def step(self):
        self.optimizer.step()

    def unfused_step(self):
        """A bf16 gradient in and a bf16 parameter out, one operation after the other."""
        self.weight.grad.copy_(self.low)
        self.weight.grad.mul_(self.clip / LOSS_SCALE)
        self.optimizer.step()
        self.cast.copy_(self.weight.detach())

    def timed(self, function):
        """Seconds of one call; as many calls as take about 50 ms."""
        function()
        calls = max(1, min(1000, int(0.05 / max(self.batch(function, 1), 1e-9))))
        return self.batch(function, calls)

    def batch(self, function, calls):
        if self.device == "cpu":
            start = time.perf_counter()
            for _ in range(calls):
                function()
            return (time.perf_counter() - start) / calls
        cuda = self.torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / calls


def run_ours(arguments, device, count, threads):
    """bench_adam's rows of one size, by layout, and its program's complete answer."""
    command = [arguments.ours, "--params", str(count), "--layout", arguments.layout, "--json", "-",
               "--device", "cuda" if device == "cuda" else "host", "--groups", "0"]
    if device == "cpu":
        command += ["--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          check=False)
    if done.returncode:
        sys.exit(f"torch_adamw.py: bench_adam ended with {done.returncode}\n"
                 + "\n".join(done.stderr.splitlines()[-5:]))
    return json.loads(done.stdout)["results"]


def measure(torch, arguments, device, count, threads):
    """Rounds of bench_adam, PyTorch, bench_adam: what disturbs the machine disturbs both."""
    times, unfused, ours = [], [], {}

    def ours_once():
        for row in run_ours(arguments, device, count, threads) if arguments.ours else []:
            ours.setdefault(row["layout"], []).append(row)

    if device == "cpu":
        torch.set_num_threads(threads)
    for _ in range(arguments.repeat):
        ours_once()
        # Built anew in each round, so that both programs never hold their memory at once.
        peer = Peer(torch, device, count, arguments.deepspeed_step)
        times.append(peer.timed(peer.step))
        if arguments.deepspeed_step:
            unfused.append(peer.timed(peer.unfused_step))
        del peer
        if device == "cuda":
            torch.cuda.empty_cache()
    ours_once()
    return summarise(count, threads, times, unfused, ours)


def summarise(count, threads, times, unfused, ours):
    seconds = statistics.median(times)
    row = {"params": count, "threads": threads, "time_us": seconds * 1e6,
           "bytes_per_param": BYTES_PER_PARAM, "gbps": BYTES_PER_PARAM * count / seconds * 1e-9,
           "rounds_us": [t * 1e6 for t in times], "ours": []}
    if unfused:
        row["unfused_step_us"] = statistics.median(unfused) * 1e6
    for layout, rows in ours.items():
        own = {key: statistics.median(r[key] for r in rows)
               for key in ("time_us", "gbps", "share_of_copy")}
        own["step_us"] = statistics.median(r["step"]["time_us"] for r in rows)
        own.update(layout=layout, bytes_per_param=rows[0]["bytes_per_param"],
                   ratio=own["time_us"] / row["time_us"])
        if unfused:
            own["step_ratio_to_unfused"] = own["step_us"] / row["unfused_step_us"]
        row["ours"].append(own)
    return row


def report(arguments, row):
    threads = "-" if row["threads"] is None else row["threads"]
    say(arguments, f"  {'torch fused AdamW, fp32':<28} {row['params']:>12} {threads:>4} "
        f"{row['time_us']:>12.2f} {BYTES_PER_PARAM:>6} {row['gbps']:>9.2f} {1:>8.3f}")
    if "unfused_step_us" in row:
        say(arguments, f"  {'torch, unfused step (*)':<28} {row['params']:>12} {threads:>4} "
            f"{row['unfused_step_us']:>12.2f}")
    for own in row["ours"]:
        say(arguments, f"  {'bench_adam ' + own['layout']:<28} {row['params']:>12} {threads:>4} "
            f"{own['time_us']:>12.2f} {own['bytes_per_param']:>6.2f} {own['gbps']:>9.2f} "
            f"{own['ratio']:>8.3f}")
        if "step_ratio_to_unfused" in own:
            say(arguments, f"  {'  whole step, to (*)':<28} {row['params']:>12} {threads:>4} "
                f"{own['step_us']:>12.2f} {'':>6} {'':>9} {own['step_ratio_to_unfused']:>8.3f}")


def fits(torch, arguments, device, count):
    """On CUDA, where the free amount is known; says so where a size is left out."""
    if device != "cuda":
        return True
    free = torch.cuda.mem_get_info()[0]
    # Weight, gradient, two moments, one more while values are drawn, and the bf16 copies.
    needed = count * (20 + (4 if arguments.deepspeed_step else 0))
    if needed > free:
        say(arguments, f"# {count} parameters are left out: they need {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free")
    return needed <= free


def thread_counts(arguments, device):
    if device == "cuda":
        return [None]
    if arguments.threads:
        return arguments.threads
    cpus = len(os.sched_getaffinity(0))
    counts = [1]
    while counts[-1] * 2 < cpus:
        counts.append(counts[-1] * 2)
    return counts + ([cpus] if cpus > 1 else [])


def write_json(arguments, document):
    text = json.dumps(document, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
        return
    aside = f"{arguments.json}.part-{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, arguments.json)


def main():
    arguments = read_arguments()
    # bench_adam asks for huge pages too; without them either loses time to page tables.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        import torch
    except ImportError as error:
        print(f"torch_adamw.py: PyTorch is not installed for {sys.executable} ({error}); nothing "
              "was measured", file=sys.stderr)
        return 77
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print("torch_adamw.py: PyTorch sees no CUDA device here; --device cpu runs without",
              file=sys.stderr)
        return 2
    if device == "cuda" and arguments.threads:
        print("torch_adamw.py: --threads is for --device cpu", file=sys.stderr)
        return 2
    counts = arguments.params or ([10**8, 10**9] if device == "cuda" else [2 * 10**7])
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPUs"
    say(arguments, f"# PyTorch {torch.__version__} on {device} ({where}), "
        f"medians of {arguments.repeat} rounds; ratio: time over torch's, below 1 is faster")
    if arguments.deepspeed_step:
        say(arguments, "# (*) bf16 gradient cast to fp32, un-scaled by mul_, fused AdamW, cast to "
            "bf16, as torch operations: it stands in for DeepSpeed's sequence and is not DeepSpeed")
    say(arguments, f"# {'what':<28} {'parameters':>12} {'thr':>4} {'time (us)':>12} {'B/par':>6} "
        f"{'GB/s':>9} {'ratio':>8}")
    rows = []
    for count in counts:
        if not fits(torch, arguments, device, count):
            continue
        for threads in thread_counts(arguments, device):
            rows.append(measure(torch, arguments, device, count, threads))
            report(arguments, rows[-1])
    if arguments.json:
        write_json(arguments, {"version": 1, "program": "torch_adamw.py", "device": device,
                               "where": where, "torch": torch.__version__,
                               "repetitions": arguments.repeat, "args": sys.argv, "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
