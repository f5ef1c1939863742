"""What a run was measured on, and how to repeat it."""

from __future__ import annotations

from typing import Any

from ..contenders import LABELS


def commit(results: dict[str, Any]) -> tuple[str, str]:
    found = results["commit"]
    return "Commit", f"{found['sha'] or 'none'}{' with changes' if found['dirty'] else ''}"


def run(results: dict[str, Any]) -> tuple[str, str]:
    return "Run", f"{results['started']}, {results['seconds']:.0f} s, scope {results['scope']}"


def versions(results: dict[str, Any]) -> tuple[str, str]:
    return "Versions", ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)


def checkout(results: dict[str, Any]) -> list[str]:
    """The command that gets the code of the run."""
    sha = results["commit"]["sha"]
    return [f"git checkout {sha}"] if sha else []


def publication_note(results: dict[str, Any]) -> list[str]:
    """The warning that goes with a run published in spite of objections."""
    note = results.get("published", {}).get("note")
    return [f"Published although it would be refused: {note}"] if note else []


def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Machine, versions and method."""
    machine, ceilings = results["machine"], results["ceilings"]
    copies = ", ".join(f"{size >> 10} KiB {rate / 1e9:.0f}" for size, rate in ceilings["copies"])
    limits = [f"{LABELS[k]}: {', '.join(v)}" for k, v in results["limits"].items()]
    temperature = "cold (operands rotate past the caches)" if (
        results["options"]["cold"] or machine["device"] == "cuda"
    ) else "warm (the same operands in each call)"  # fmt: skip
    return [
        ("Device", machine.get("gpu", {}).get("name") or machine["cpu"]),
        ("CPU", f"{machine['cpu']}, {machine['cpu_cores']} cores, {machine['threads']} threads"),
        ("Instruction set", machine["cpu_instruction_set"]),
        ("Peak", f"{ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s ({ceilings['how']['flops']})"),
        ("Copy bandwidth, GB/s", f"{copies} ({ceilings['how']['copies']})"),
        versions(results),
        commit(results),
        ("Caches", temperature),
        *([("Allocator", allocator(results))] if machine["device"] == "cpu" else []),
        ("Peers' limits", "; ".join(limits) or "none"),
        ("Missing peers", "; ".join(f"{k}: {v}" for k, v in results["missing"].items()) or "none"),
        run(results),
        ("Load average", ", ".join(f"{v:.1f}" for v in results["load_average"] if v is not None)),
    ]


def allocator(results: dict[str, Any]) -> str:
    """Whether outputs came from blocks that were in use before."""
    policy = (
        "freed blocks of any size stay in the process (mallopt)"
        if results["allocator_keeps_blocks"]
        else "as the system has it"
    )
    timed = [row for row in results["cells"] if row["failure"] is None]
    # A page for every 64 KiB of operands is more than chance.
    cold = [row for row in timed if row["page_faults"] * 65536 > row["bytes"]]
    if not cold:
        return f"warm, {policy}; no contender touched fresh pages in its timed calls"
    worst = max(cold, key=lambda row: row["page_faults"])
    return (
        f"{policy}; timed calls touched fresh pages on {len(cold)} of {len(timed)} measurements, "
        f"most on {worst['pass']} of {worst['layer']}, batch {worst['batch']}, "
        f"{LABELS[worst['contender']]}: {worst['page_faults']:.0f} a call"
    )


def reproduce(results: dict[str, Any]) -> list[str]:
    """The commands that repeat the run."""
    if results["kind"] == "blocks":
        return [*checkout(results), " ".join(results["command"])]
    return [*checkout(results), "make bench", f"# or: {' '.join(results['command'])}"]
