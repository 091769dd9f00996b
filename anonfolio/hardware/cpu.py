"""Which CPU this is, and what is known of its data TLBs: /proc/cpuinfo tells the model, a table its TLB."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from .tlb import CORTEX_A76, GOLDEN_COVE, NEOVERSE_N1, ZEN_2, Coalescing, Contiguous, Core, Plain

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cpu:
    """A processor by name; `core` is None where nothing is known of its TLB, and `note` says what is inferred."""

    name: str
    core: Core | None
    coalescing: Coalescing
    note: str = ""


_INTEL = {
    0x8F: "Sapphire Rapids", 0x97: "Alder Lake", 0x9A: "Alder Lake", 0xCF: "Emerald Rapids",
    0xB7: "Raptor Lake", 0xBA: "Raptor Lake", 0xBF: "Raptor Lake",
}  # fmt: skip
"""Models of family 6 whose large cores are Golden Cove, or Raptor Cove, which is taken to have the same TLBs
(arch/x86/include/asm/intel-family.h, 6.18)."""
_RAPTOR_COVE = (0xCF, 0xB7, 0xBA, 0xBF)
_ZEN_2 = (range(0x30, 0x50), range(0x60, 0x80), range(0x90, 0x92), range(0xA0, 0xB0))
"""Models of family 0x17 that are Zen 2 (`bsp_init_amd`, arch/x86/kernel/cpu/amd.c, 6.18)."""
_ARM = {0xD0B: CORTEX_A76, 0xD0C: NEOVERSE_N1}
"""Parts of implementer 0x41 (arch/arm64/include/asm/cputype.h, 6.18)."""


def this_cpu(path: Path = CPUINFO) -> Cpu:
    """The processor that this runs on."""
    try:
        return cpu_told(path.read_text(errors="replace"))
    except OSError:
        name = platform.processor() or platform.machine() or "this CPU"
        return Cpu(name, None, Plain(), "its TLB is not known: no /proc/cpuinfo here")


def cpu_told(info: str) -> Cpu:
    """The processor that a /proc/cpuinfo tells of, by its first entry."""
    rows = dict(reversed(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", info, re.M)))
    if "CPU part" in rows:
        return _arm(rows)
    name = rows.get("model name", platform.machine())
    family, model = _number(rows.get("cpu family")), _number(rows.get("model"))
    vendor = rows.get("vendor_id", "")
    if vendor == "GenuineIntel" and family == 6 and model in _INTEL:
        note = "Raptor Cove, taken as Golden Cove" if model in _RAPTOR_COVE else ""
        return Cpu(f"{name} ({_INTEL[model]})", GOLDEN_COVE, Plain(), note)
    if vendor == "AuthenticAMD" and family == 0x17 and any(model in models for models in _ZEN_2):
        return Cpu(f"{name} (Zen 2)", ZEN_2, Plain(), ZEN_2.inferred)
    return Cpu(
        name, None, Plain(), f"the TLB of {vendor or 'this CPU'} family {family}, model {model} is not known here"
    )


def _arm(rows: dict[str, str]) -> Cpu:
    maker, part = _number(rows.get("CPU implementer")), _number(rows["CPU part"])
    core = _ARM.get(part) if maker == 0x41 else None
    if core:
        return Cpu(core.name, core, Contiguous(), core.inferred)
    return Cpu(f"arm64 {maker:#x}/{part:#x}", None, Contiguous(), f"the TLB of part {part:#x} is not known here")


def _number(text: str | None) -> int:
    """0 where there is none; Arm writes hexadecimal."""
    try:
        return int(text or "0", 0)
    except ValueError:
        return 0
