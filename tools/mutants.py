"""Break the model on purpose, one way at a time: every break must make a test fail.

    python tools/mutants.py [WORD …]     only the mutants whose name contains one of the words

A mutant replaces one piece of text that occurs exactly once. It runs in a copy of the tree, with the tests that need no
browser, until the first failure. Survivors are tests that are missing; the exit code is then 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("anonfolio", "tests", "data", "pyproject.toml")
# What catches most comes first: a mutant's run ends at the first failure.
TESTS = ("test_worked_scenarios.py", "test_records.py", "test_mm_ids.py", "test_mappings.py", "test_memory.py",
         "test_misuse.py", "test_replay.py", "test_properties.py", "test_search.py")  # fmt: skip


class Mutant(NamedTuple):
    name: str
    file: str
    text: str
    broken: str


MUTANTS = (
    # first touch
    Mutant("first touch ignores the mapping's bounds", "faults.py",
           "vmf.vma.start <= start and end <= vmf.vma.end,", "True,"),
    Mutant("first touch: upper bound off by one", "faults.py",
           "vmf.vma.start <= start and end <= vmf.vma.end,", "vmf.vma.start <= start and end <= vmf.vma.end + 1,"),
    Mutant("first touch takes neighbours that are mapped", "faults.py",
           "none: Mask = block == 0\n    return none", "none: Mask = block == block\n    return none"),
    Mutant("first touch after a failed allocation gives up at once", "faults.py",
           "        vmf.machine.counters.anon_fault_fallback[order] += 1\n    return folio_prealloc",
           "        vmf.machine.counters.anon_fault_fallback[order] += 1\n        break\n    return folio_prealloc"),
    Mutant("a read takes a folio", "faults.py", 'if vmf.access != WRITE:\n        vmf.check("FAULT_FLAG_WRITE"',
           'if False:\n        vmf.check("FAULT_FLAG_WRITE"'),
    Mutant("MADV_NOHUGEPAGE is ignored", "faults.py", "if vmf.vma.flags & VM_NOHUGEPAGE:", "if False:"),
    Mutant("the madvise knob does not need advice", "faults.py",
           'return vmf.machine.thp == "always" or bool(vmf.vma.flags & VM_HUGEPAGE)', "return True"),
    Mutant("the smallest fitting order is used", "faults.py", "return sorted(orders, reverse=True)", "return sorted(orders)"),
    Mutant("a fresh folio's references are one short", "faults.py",
           "memory.folio_get(folio, pages - 1)\n    folio_add_new_anon_rmap", "memory.folio_get(folio, pages - 2)\n    folio_add_new_anon_rmap"),
    Mutant("only the head of a fresh folio is exclusive", "rmap.py",
           "memory.anon_exclusive[frames] = True\n        memory.nr_mapped[folio] = pages",
           "memory.anon_exclusive[frames.start] = True\n        memory.nr_mapped[folio] = pages"),
    Mutant("a fresh frame keeps its old bytes", "memory.py", "self.content[frames] = 0\n", ""),
    # zero page
    Mutant("RFC: a zero page is replaced by one page", "faults.py",
           'if vmf.policy.zero_page_write == "page" or vmf.unshare:', "if True:"),
    Mutant("RFC: zero_neighbours is ignored", "faults.py",
           'elif vmf.policy.zero_neighbours == "none_or_zero":', "elif True:"),
    Mutant("zero page counts in RSS", "faults.py",
           "vmf.mm.set_ptes(vmf.vpn, ZERO_PFN, 1, ZERO_BITS)\n",
           "vmf.mm.set_ptes(vmf.vpn, ZERO_PFN, 1, ZERO_BITS)\n        vmf.mm.rss_pages += 1\n"),
    # copy
    Mutant("RFC fixed: exclusive pages are not looked for", "faults.py",
           "if not vmf.policy.copy_requires_maybe_shared:", "if True:"),
    Mutant("RFC as posted: exclusive pages stop a copy", "faults.py",
           "if not vmf.policy.copy_requires_maybe_shared:", "if False:"),
    Mutant("RFC: a copy may leave the mapping", "faults.py",
           "if not thp_vma_suitable_order(vmf, order) or not _copy_may_cover(vmf, order):", "if not _copy_may_cover(vmf, order):"),
    Mutant("RFC: a copy may cover other folios", "faults.py",
           "bool(_maps_folio_in_step(vmf, start, end).all())", "True"),
    Mutant("RFC: copy order is off by one", "faults.py", "vmf.policy.copy_max_order), 1, -1)", "vmf.policy.copy_max_order), 2, -1)"),
    Mutant("a copy does not copy", "faults.py",
           "    vmf.memory.content[head : head + pages] = vmf.memory.content[source : source + pages]\n", ""),
    Mutant("a copy keeps the old references", "faults.py", "    vmf.memory.folio_put(vmf.old_folio, pages)\n", ""),
    Mutant("a copy keeps the old mapcounts", "faults.py",
           "    folio_remove_rmap_ptes(vmf.memory, vmf.old_folio, source, pages, vmf.mm.id)\n", ""),
    Mutant("a copy counts in RSS twice", "faults.py", "    vmf.mm.rss_pages -= pages\n", ""),
    # reuse
    Mutant("PageAnonExclusive is never asked", "faults.py",
           'if vmf.check("PageAnonExclusive", bool(vmf.memory.anon_exclusive[pfn])):', 'if vmf.check("PageAnonExclusive", False):'),
    Mutant("PageAnonExclusive is always believed", "faults.py",
           'if vmf.check("PageAnonExclusive", bool(vmf.memory.anon_exclusive[pfn])):', 'if vmf.check("PageAnonExclusive", True):'),
    Mutant("reuse forgets to set exclusivity", "faults.py",
           "        vmf.memory.anon_exclusive[first : first + len(sole)] = True\n", ""),
    Mutant("reuse by references: two will do", "faults.py", 'vmf.check("folio_ref_count == 1", refcount == 1, f"refcount {refcount}"):\n        return',
           'vmf.check("folio_ref_count == 1", refcount <= 2, f"refcount {refcount}"):\n        return'),
    Mutant("6.9 reuses like 6.8", "faults.py", '"never": _reuse_never,', '"never": _reuse_if_refcount_one,'),
    Mutant("6.15: a last page is reused", "faults.py", 'mapcount > 1, f"', 'mapcount > 0, f"'),
    Mutant("6.15: the shared bit is not asked", "faults.py", "bool(memory.maybe_mapped_shared[folio]), _seen_slots(vmf)", "False, _seen_slots(vmf)"),
    Mutant("6.15: extra references do not stop reuse", "faults.py", "same = mapcount == refcount", "same = mapcount <= refcount"),
    Mutant("RFC: the scan believes fewer entries than references", "faults.py",
           "refcount == len(pages), saw", "refcount >= len(pages), saw"),
    Mutant("RFC: the scan does not stop at a hole", "faults.py",
           "lo = int(below[-1]) + 1 if len(below) else 0", "lo = 0"),
    Mutant("RFC: the scan stops a page early", "faults.py",
           "hi = int(above[0]) if len(above) else len(good)", "hi = int(above[0]) if len(above) else len(good) - 1"),
    Mutant("RFC: the scan leaves the mapping", "faults.py",
           "end = min(vmf.vma.end, block_end, vmf.vpn + (frames.stop - pfn))", "end = min(block_end, vmf.vpn + (frames.stop - pfn))"),
    Mutant("RFC: exclusive runs take maybe-shared pages", "faults.py",
           "        good &= vmf.memory.anon_exclusive[first : first + len(good)]\n", ""),
    Mutant("RFC: copy_requires_ro is ignored", "faults.py", "if vmf.policy.copy_requires_ro:", "if False:"),
    Mutant("reuse does not set the entry writable", "faults.py",
           "    vmf.mm.pte[pages.start : pages.stop] |= vmf.writable_bits()\n    vmf.flushed += len(pages)",
           "    vmf.mm.pte[pages.start : pages.stop] |= vmf.writable_bits() & ~2\n    vmf.flushed += len(pages)"),
    Mutant("an unshare makes the entry writable", "faults.py", "if self.unshare:\n            return PTE_PRESENT | PTE_YOUNG", "if False:\n            return 0"),
    # PMD
    Mutant("PMD: mapped over an existing page table", "faults.py", "or vmf.mm.pmd[vmf.vpn >> 9] != PMD_NONE:", "or False:"),
    Mutant("PMD: a shared folio is reused whole", "faults.py",
           'if not vmf.check("folio_ref_count == 1", refcount == 1, f"refcount {refcount}"):\n            vmf.mm', 'if False:\n            vmf.mm'),
    Mutant("PMD: huge zero page written as in 6.15 by all", "faults.py",
           'if vmf.policy.huge_zero_write == "huge" and', "if"),
    Mutant("PMD split takes no references", "rmap.py", "    memory.folio_get(folio, pages - 1)\n    if memory.anon_exclusive", "    if memory.anon_exclusive"),
    Mutant("PMD split forgets exclusivity", "rmap.py", "        memory.anon_exclusive[frames] = True\n    memory.mapcount[frames] += 1", "        pass\n    memory.mapcount[frames] += 1"),
    Mutant("6.1 split keeps entries dirty", "mm.py", "if not self.policy.split_keeps_dirty:", "if False:"),
    Mutant("a boundary inside a huge mapping does not split it", "mm.py", "if vpn % PTRS_PER_PMD and self.is_huge(vpn):", "if False:"),
    # fork
    Mutant("fork leaves the parent's entries writable", "fork.py", "    mm.pte[start:end] &= WRPROTECT\n", ""),
    Mutant("fork does not clear exclusivity", "rmap.py", "    memory.anon_exclusive[pfn : pfn + pages] = False\n", ""),
    Mutant("fork takes no references", "fork.py", "    mm.memory.folio_get(run.folio, run.pages)\n", ""),
    Mutant("fork shares pinned pages", "fork.py", "return mm.has_pinned and mm.memory.maybe_dma_pinned(folio)", "return False"),
    Mutant("fork copies what anybody pinned", "fork.py", "return mm.has_pinned and mm.memory.maybe_dma_pinned(folio)", "return mm.memory.maybe_dma_pinned(folio)"),
    Mutant("fork copies only pinned folios' first page", "fork.py", "        if is_exclusive:\n", "        if is_exclusive and at == 0:\n"),
    Mutant("fork copies maybe-shared pages of a pinned folio", "fork.py", "        if is_exclusive:\n", "        if True:\n"),
    Mutant("fork copies what is wiped", "fork.py", "if vma.flags & VM_WIPEONFORK:", "if False:"),
    Mutant("fork copies MADV_DONTFORK mappings", "fork.py", "if vma.flags & VM_DONTCOPY:", "if False:"),
    Mutant("fork copies memory that was only read", "fork.py", "        if not vma.anon_vma:\n            continue\n", ""),
    Mutant("a failing fork stops one mapping late", "fork.py", "        if vma is fail_at:\n", "        if fail_at and vma.start > fail_at.start:\n"),
    Mutant("a child's copy is read-only", "fork.py", "writable = PTE_WRITE if vma.flags & VM_WRITE else 0", "writable = 0"),
    # unmap and protect
    Mutant("unmapping keeps references", "mmap.py", "                mm.memory.folio_put(run.folio, run.pages)\n", ""),
    Mutant("unmapping keeps mapcounts", "mmap.py", "                folio_remove_rmap_ptes(mm.memory, run.folio, run.pfn, run.pages, mm.id)\n", ""),
    Mutant("unmapping off by one", "mmap.py", "        if vma.end > end:\n            mm.split_vma(vma, end)\n        zap", "        if vma.end > end + 1:\n            mm.split_vma(vma, end + 1)\n        zap"),
    Mutant("part of a folio unmapped is never queued", "rmap.py",
           "    if memory.nr_mapped[folio] and not memory.entire_mapcount[folio]:\n        memory.partially_mapped[folio] = True\n", ""),
    Mutant("mprotect makes maybe-shared pages writable", "mmap.py",
           "            candidates[candidates] = mm.memory.anon_exclusive[mm.pfn[first:stop][candidates]]\n", "            pass\n"),
    Mutant("mprotect never makes pages writable", "mmap.py", "        bits[candidates] |= PTE_WRITE\n", ""),
    Mutant("6.1 mprotect does not ask for dirty", "mmap.py", "        if mm.policy.mprotect_needs_dirty:\n            candidates", "        if False:\n            candidates"),
    Mutant("mprotect goes on over holes", "mmap.py",
           '        vma = mm.find_vma(start)\n        if vma is None:\n            raise Refused("ENOMEM", f"nothing is mapped at page {start}")\n        start = mprotect_fixup',
           '        vma = mm.find_vma(start)\n        if vma is None:\n            start += 1\n            continue\n        start = mprotect_fixup'),
    Mutant("madvise stops at a hole", "mmap.py", "        if vma is None:\n            break\n        start = madvise", "        if vma is None or hole is not None:\n            break\n        start = madvise"),
    Mutant("mremap before 6.17 moves many mappings", "mmap.py", "if not mm.policy.moves_many_vmas:", "if False:"),
    Mutant("MADV_DONTNEED never frees a page table", "mmap.py", "if not mm.policy.reclaims_page_tables:", "if True:"),
    Mutant("mremap restarts the page offset", "mmap.py", "pgoff = vma.pgoff + start - vma.start if vma.anon_vma else new_start", "pgoff = new_start"),
    Mutant("exit keeps its pins", "mmap.py", "    for pin in mm.pins:\n        unpin_user_pages(mm.memory, pin)\n", ""),
    # mappings
    Mutant("mappings merge across offsets", "mm.py", "return neighbour.flags == flags and continuous and", "return neighbour.flags == flags and"),
    Mutant("mappings merge across flags", "mm.py", "return neighbour.flags == flags and continuous and", "return continuous and"),
    Mutant("mappings of fork children merge", "mm.py", "return self.anon_vma != 0 and len(self.chain) != 1", "return False"),
    Mutant("6.12 merges into a neighbour without anon_vma", "mm.py", "return self.policy.merges_into_unfaulted and not", "return not"),
    Mutant("an anon_vma is never shared with a neighbour", "mm.py", "vma.anon_vma = anon_vma or self.new_anon_vma()", "vma.anon_vma = self.new_anon_vma()"),
    # mm_id
    Mutant("mm_id: sharing is not noticed", "rmap.py", "                memory.maybe_mapped_shared[folio] = True\n", "                pass\n"),
    Mutant("mm_id: a third process takes slot 1", "rmap.py", "        if ids[slot] == 0:\n", "        if ids[slot] == 0 or slot == 1:\n"),
    Mutant("mm_id: a slot frees with a page left", "rmap.py", "            if counts[slot] > 0:\n                return\n", "            if counts[slot] > 1:\n                return\n"),
    Mutant("mm_id: the bit is looked at while a slot still maps", "rmap.py", "            if counts[slot] > 0:\n                return\n", "            if counts[slot] > 0:\n                break\n"),
    Mutant("mm_id: the bit never clears", "rmap.py", "        memory.maybe_mapped_shared[folio] = False\n", "        pass\n"),
    Mutant("mm_id: only slot 0 clears the bit", "rmap.py", "or counts[0] == left or counts[1] == left:", "or counts[0] == left:"),
    Mutant("mm_id: the bit clears when an untracked process leaves", "rmap.py", "if left == 0 or counts[0] == left or counts[1] == left:", "if True:"),
    # GUP
    Mutant("a read pin does not unshare", "gup.py", "    return not memory.anon_exclusive[_exclusive_index(memory, pfn)]\n", "    return False\n"),
    Mutant("a long-term read pin keeps the zero page", "gup.py", "        return longterm\n", "        return False\n"),
    Mutant("a pin of a small folio counts one", "gup.py", "        memory.folio_get(folio, GUP_PIN_COUNTING_BIAS)\n", "        memory.folio_get(folio)\n"),
    Mutant("a pin is not counted as one", "gup.py", "        memory.pincount[folio] += 1\n", ""),
    Mutant("a refused pin keeps its pages", "gup.py", "    except BadAddress:\n        unpin_user_pages(mm.memory, pin)\n        raise", "    except BadAddress:\n        raise"),
    Mutant("a refused pin is not remembered", "gup.py", "    mm.has_pinned = True\n    pin = Pin(mm.id - 1, vpn, [], write)", "    pin = Pin(mm.id - 1, vpn, [], write)"),
)  # fmt: skip


def main(words: list[str]) -> int:
    """Run the chosen mutants; 1 when one survives."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    for mutant in MUTANTS:
        found = (ROOT / "anonfolio" / mutant.file).read_text(encoding="utf-8").count(mutant.text)
        if found != 1:
            print(f"{mutant.name}: its text occurs {found} times in {mutant.file}, not once")
            return 2
    survivors = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for mutant, killer in zip(chosen, pool.map(run, chosen), strict=True):
            print(f"{'killed  ' if killer else 'SURVIVED'} {mutant.name}{f'  ({killer})' if killer else ''}", flush=True)
            if not killer:
                survivors.append(mutant)
    print(f"{len(chosen)} mutants, {len(survivors)} survived")
    return 1 if survivors else 0


def run(mutant: Mutant) -> str | None:
    """The test that fails under a mutant, or None."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        file = tree / "anonfolio" / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.text, mutant.broken), encoding="utf-8")
        tests = [f"tests/{name}" for name in TESTS if (tree / "tests" / name).is_file()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
        # The copy must be what is imported, not the installed tree.
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": place})
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split()[1].removeprefix("tests/") if failed else "the tests did not run to their end"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
