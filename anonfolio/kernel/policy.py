"""Which kernel: one frozen `Policy` per behaviour that the suite compares.

What differs between kernels is data here and never a version test inside a fault path. What a release does is the sum
of the changes up to it (`Policy.at`, `history`); the well-known names are such sums: ``linux-6.3`` is 6.1,
``linux-6.9`` 6.12 and ``linux-6.15`` 6.18, all checked on running kernels, ``linux-6.8`` by its source only. The
two RFC rows model a proposal of April 2023 that no kernel runs: what its mails leave open is a field with a default and
the reason for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from . import given, honest, rules
from .history import ARCHITECTURES, HISTORY, LAST_RECORDED, NEWEST, changes_up_to, kernel_number
from .rules import AllowedOrders, ChosenOrder, Extent, Reuse
from .sizes import ANON_ORDERS

_CHOICES: dict[str, tuple[str, ...]] = {
    "zero_page_write": ("page", "first_touch"),
    "zero_neighbours": ("none_or_zero", "none_only"),
    "huge_zero_write": ("page", "huge"),
    "dontunmap_joins": ("itself", "others", "nothing"),
    "thp_aligns_mmap": ("nothing", "larger", "multiples"),
    "madvise_populate": ("unknown", "past_holes", "to_hole"),
    "huge_reuse": tuple(rules.HUGE_REUSES),
}


class Rules(NamedTuple):
    """What a policy decides with functions, each under the name of its field (`anonfolio.kernel.rules`)."""

    large_reuse: Reuse
    allowed_orders: AllowedOrders
    chosen_order: ChosenOrder
    copy_extent: Extent
    unshare_extent: Extent
    reuse_extent: Extent


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How one kernel backs anonymous memory. Make your own with ``LINUX_6_15.but(name="mine", …)``.

    What a function of yours is handed (folio, where, around, ask) is described in `anonfolio.kernel.rules`.

    Parameters
    ----------
    name : str
        What pictures, errors and the command line call it.
    about : str
        One sentence for the reader: which kernel, and how sure we are.
    fixed_orders : tuple of int
        Orders a first touch may use whatever sysfs and madvise say (RFC v2: hard-coded up to order 4).
    knob_orders : tuple of int
        Orders that a ``hugepages-*kB/enabled`` knob can switch on (only PMD size before 6.8).
    zero_page_write : {"page", "first_touch"}
        What replaces the shared zero page on a write: one base page, or a folio chosen as for a first touch.
    zero_neighbours : {"none_or_zero", "none_only"}
        Open in the sources: whether zero-page neighbours may lie in the block that replaces a zero page. Default
        ``none_or_zero``, the literal reading of "as if the write fault had happened without the previous read
        fault" (RFC v2 patch 15, message only). Used only with ``zero_page_write="first_touch"``.
    allowed_orders : {"knobs"} or function (where) -> orders
        Which orders a first touch may use in a mapping: what sysfs, madvise and prctl allow, and `fixed_orders`.
    chosen_order : {"largest"} or function (fits, ask) -> order
        Which of the orders that fit around the page it takes.
    copy_extent : {"page", "source_order"} or function (around, ask) -> range
        How far a copy-on-write reaches: one page (every released kernel), or up to the order of the source folio.
    copy_respects_knobs : bool
        Whether a large copy takes only orders that the mapping may use for a first touch.
    copy_max_order : int
        Open in the sources: the ceiling of a copy whose source is larger than order 4. Default 4, the ceiling the
        RFC uses everywhere else.
    copy_requires_maybe_shared : bool
        Whether a copy refuses a block in which any page is exclusive. False as posted: that is the bug.
    copy_requires_ro : bool
        Open in the sources: whether the RFC's range scans (for copy and for reuse) stop at writable PTEs. Default
        False: the mails name no such test, one recollection of the posted code does.
    unshare_extent : {"page", "source_order"} or function (around, ask) -> range
        Open in the sources: how far an unshare (before a read-only pin) copies. Default one page, as mainline.
    unshares_zero_page : bool
        Whether a long-term pin for reading replaces the zero page first (`gup_must_unshare`; not in 6.1, from 6.2 on).
    marks_exclusive : bool
        Whether the kernel marks the pages that one process has for itself (PageAnonExclusive, 6c287605fd56, 5.19).
        Without it a write asks for references alone (`do_wp_page`, 5.10), a pin unshares nothing, mprotect makes
        nothing writable, and fork copies whatever may be pinned: a write can be lost.
    large_reuse : {"refcount_one", "never", "mm_id", "scan"} or function (folio, ask) -> bool
        When a page of a PTE-mapped large folio that is not marked exclusive may be reused all the same.
    reuse_extent : {"page", "range"} or function (around, ask) -> range
        How many pages one reuse makes writable: the faulting one, or the run around it.
    huge_reuse : {"refcount_one", "mapped_once"}
        When a whole PMD mapping that is not marked exclusive is reused: nobody else refers to the folio
        (`do_huge_pmd_wp_page`, 6.1), or nobody else maps it (`reuse_swap_page`, 5.10).
    keeps_mm_ids : bool
        Whether the kernel tracks in a large folio which two processes map it (mm_id slots, 6.15).
    huge_zero_write : {"page", "huge"}
        What a write on the huge zero page gets: one base page after a split, or a PMD-sized folio
        (`do_huge_zero_wp_pmd`, 1ced09e0331f, 6.13).
    mprotect_needs_dirty : bool
        Whether mprotect to writable skips clean PTEs, and huge mappings (`can_change_pte_writable`; up to 6.1).
    split_keeps_dirty : bool
        Whether a PMD split hands its dirty bit to the 512 PTEs (`__split_huge_pmd_locked`; from 6.4 on).
    pmd_modify_keeps_dirty : bool
        Whether mprotect leaves a writable PMD its dirty bit (`pmd_modify` of x86-64; not in 6.17.13, 6.18.5 and
        7.0.13, which after MADV_FREE loses data).
    read_ages_pmd : bool
        Whether a walk that takes pages for reading marks a PMD accessed (`touch_pmd`): arm64's `ptep_set_access_flags`
        does, x86-64's `pmdp_set_access_flags` changes the entry for a writer alone.
    mkwrite_keeps_clean : bool
        Whether a clean entry stays so that mprotect, a split or a batch of fork makes writable (`pte_mkwrite_novma`):
        for arm64, write without read-only is dirty, and until 143937ca51cc that was what it made.
    heap_joins_mmap : bool
        Whether a heap's mapping may be one with what mmap made beside it: on arm64 brk always sets VM_MTE_ALLOWED,
        mmap only where the processor tags memory (VM_DATA_DEFAULT_FLAGS, `arch_calc_vm_flag_bits`).
    mremap_looks_first : bool
        Whether mremap refuses to move a hole before it unmaps the target (6.1; `mremap_to` did it after, 5.10).
    reclaims_page_tables : bool
        Whether MADV_DONTNEED over a whole PMD range frees the page table too (PT_RECLAIM, 6.14 on x86-64,
        7.0 on arm64).
    moves_many_vmas : bool
        Whether mremap moves a range that spans several VMAs (`remap_move`, 6.17); else EFAULT.
    merges_into_unfaulted : bool
        Whether a VMA with an anon_vma merges into a neighbour that has none (`is_mergeable_anon_vma`, from 6.16;
        before, `list_is_singular` of the neighbour's empty chain said no).
    moved_keeps_anon_vma : bool
        Whether a moved VMA that merges into a neighbour without an anon_vma hands it its own, and a fork child's does
        not merge there (`vma_merge_copied_range`). Not from 6.16 to 6.18.7, a bug: fork then drops the moved pages.
    mmap_asks_upper_first : bool
        Whether a new mapping that fills a gap joins the upper neighbour where it cannot have both, and the lower one
        must fit the upper one's anon_vma (`mmap_region`, up to 6.11).
    dontunmap_joins : {"itself", "others", "nothing"}
        What a mapping may join that mremap moves beside itself and keeps (MREMAP_DONTUNMAP), nothing written in it: the
        old one too, whose page offset then never starts again; the other neighbour (7.3, 6.12.118); or neither (6.1).
    dontunmap_splits_locked : bool
        Whether a locked mapping of which mremap keeps a part is cut around it first (7.2.11); before,
        all of it lost its lock.
    dontunmap_keeps_account : bool
        Whether what it keeps keeps VM_ACCOUNT; else it merges with no neighbour that has it (`dontunmap_complete`, a
        bug from 6.15 to 6.17.5).
    thp_aligns_mmap : {"nothing", "larger", "multiples"}
        Which mappings without a place of their own go to a 2 MiB boundary (`__get_unmapped_area`): those of 2 MiB and
        more (6.7), multiples of 2 MiB alone (6.12), none before.
    madvise_populate : {"unknown", "past_holes", "to_hole"}
        What MADV_POPULATE_READ and _WRITE do: EINVAL before 5.14; up to the first hole from 6.10 on, past it before.
    thp_disable_except_advised : bool
        Whether PR_SET_THP_DISABLE knows PR_THP_DISABLE_EXCEPT_ADVISED (`prctl_set_thp_disable`, 6.18); else EINVAL.
    unaccounts_read_only : bool
        Whether a mapping without an anon_vma that becomes read-only loses VM_ACCOUNT (`mprotect_fixup`, from 6.7
        on), and then merges with no neighbour that keeps it.
    realigns_moves : bool
        Whether mremap, where both places lie alike in their 2 MiB and nothing is below them there, begins at the start
        of these and so moves the page table whole (`try_realign_addr`, 6.7); else entry by entry, and it stays.
    batches_ptes : bool
        Whether mprotect changes the entries of a large folio in batches, which then share accessed and dirty, and
        mremap moves what is folded so, and MADV_COLLAPSE clears it (`mprotect_folio_pte_batch`,
        `mremap_folio_pte_batch`, 6.17).
    ages_whole_folios : bool
        Whether MADV_FREE and MADV_COLD leave a large folio whole that lies in the range (dce7d10be4bb, 6.10); before,
        each was split, or, where its first page was mapped more than once, ended the work on that page table.
    has_guard_markers : bool
        Whether MADV_GUARD_INSTALL and MADV_GUARD_REMOVE are known (662df3e5c376, 6.13); else EINVAL.
    fork_copies_guarded : bool
        Whether fork copies the entries of a mapping without an anon_vma that had guard pages once (VM_MAYBE_GUARD,
        6.19 and 6.18.37): zero pages are left there when mremap moved the rest away, or a fork wiped it.
    has_collapse : bool
        Whether MADV_COLLAPSE is known (7d8faaf15545, 6.1); else EINVAL.
    collapse_needs_writable : bool
        Whether it leaves 2 MiB alone in which no entry is writable.
    collapse_stops_at_hole : bool
        Whether 2 MiB without a page table end it, instead of being passed over.
    collapse_takes_small_ranges : bool
        Whether a range that lies inside 2 MiB is nothing to do, instead of an error.
    splits_to_any_order : bool
        Whether debugfs's split_huge_pages takes an order (fc4d182316bd, 6.9); else all is split to single pages.
    split_maps_zero_page : bool
        Whether a page that holds only zeros becomes the zero page when its folio is split (b1f202060afe, 6.12).
    cont_pte_order : int
        Blocks of so many entries, as a power of two, carry arm64's contiguous bit when they are alike
        (CONFIG_ARM64_CONTPTE, 6.9 and later): 4 with 4 KiB pages, 7 with 16 KiB pages. Default 0, a machine without
        that bit, as x86. The model's page tables have 512 entries: with 16 KiB pages it is right within 512 of them.
    hardware_age : bool
        Whether the processor itself marks entries accessed and dirty (x86; arm64 with FEAT_HAFDBS, as a Neoverse N1).
        Else an access to an old entry, or a write to a clean one, is a fault (`arch_has_hw_pte_young`; a Cortex-A72).
    """

    name: str
    about: str = ""
    fixed_orders: tuple[int, ...] = ()
    knob_orders: tuple[int, ...] = ANON_ORDERS
    zero_page_write: str = "page"
    zero_neighbours: str = "none_or_zero"
    allowed_orders: str | AllowedOrders = "knobs"
    chosen_order: str | ChosenOrder = "largest"
    copy_extent: str | Extent = "page"
    copy_respects_knobs: bool = False
    copy_max_order: int = 4
    copy_requires_maybe_shared: bool = True
    copy_requires_ro: bool = False
    unshare_extent: str | Extent = "page"
    unshares_zero_page: bool = True
    marks_exclusive: bool = True
    large_reuse: str | Reuse = "mm_id"
    reuse_extent: str | Extent = "page"
    huge_reuse: str = "refcount_one"
    keeps_mm_ids: bool = True
    huge_zero_write: str = "huge"
    mprotect_needs_dirty: bool = False
    split_keeps_dirty: bool = True
    pmd_modify_keeps_dirty: bool = True
    read_ages_pmd: bool = False
    mkwrite_keeps_clean: bool = True
    heap_joins_mmap: bool = True
    mremap_looks_first: bool = True
    reclaims_page_tables: bool = True
    moves_many_vmas: bool = True
    merges_into_unfaulted: bool = True
    moved_keeps_anon_vma: bool = True
    mmap_asks_upper_first: bool = False
    dontunmap_joins: str = "others"
    dontunmap_splits_locked: bool = True
    dontunmap_keeps_account: bool = True
    thp_aligns_mmap: str = "multiples"
    unaccounts_read_only: bool = True
    madvise_populate: str = "to_hole"
    thp_disable_except_advised: bool = True
    realigns_moves: bool = True
    batches_ptes: bool = True
    ages_whole_folios: bool = True
    splits_to_any_order: bool = True
    split_maps_zero_page: bool = True
    has_guard_markers: bool = True
    fork_copies_guarded: bool = True
    has_collapse: bool = True
    collapse_needs_writable: bool = False
    collapse_stops_at_hole: bool = False
    collapse_takes_small_ranges: bool = True
    cont_pte_order: int = 0
    hardware_age: bool = True

    def __post_init__(self) -> None:
        names = self._names
        for field in fields(self):
            try:
                self._check(field.name, getattr(self, field.name), str(field.type), names.get(field.name, {}))
            except ValueError as error:
                raise ValueError(f"policy {given.said(self.name)}: {field.name}{error}") from error.__cause__

    def _check(self, field: str, value: Any, kind: str, named: Mapping[str, Callable[..., Any]]) -> None:
        if named:
            if callable(value):
                for name, rule in named.items():
                    if value is rule:
                        object.__setattr__(self, field, name)
                        return
                _check_rule(field, value)
            elif type(value) is not str or value not in named:
                raise ValueError(f"={given.said(value)} is no function and none of {', '.join(named)}")
        elif field in _CHOICES and value not in _CHOICES[field]:
            raise ValueError(f"={given.said(value)} is none of {', '.join(_CHOICES[field])}")
        elif field == "cont_pte_order" and (type(value) is not int or value not in (0, 4, 7)):
            raise ValueError(f"={given.said(value)} is none of 0, 4, 7")
        elif kind == "bool" and type(value) is not bool:
            raise ValueError(f"={given.said(value)} is neither True nor False")
        elif kind == "str" and type(value) is not str:
            raise ValueError(f"={given.said(value)} is no text")
        elif kind == "int" and (type(value) is not int or value not in (0, *ANON_ORDERS)):
            raise ValueError(f"={given.said(value)} is no order: 0, or 2 to 9")
        elif kind.startswith("tuple"):
            if type(value) is not tuple:
                raise ValueError(f"={given.said(value)} is no tuple of orders, such as (2, 4)")
            check_orders(value, "")

    @property
    def _names(self) -> dict[str, Mapping[str, Callable[..., Any]]]:
        source_order = rules.SourceOrder(
            self.copy_max_order, self.copy_requires_maybe_shared, read_only=self.copy_requires_ro
        )
        blocks: dict[str, Extent] = {"page": rules.one_page, "source_order": source_order}
        runs: dict[str, Extent] = {"page": rules.one_page, "range": rules.Run(read_only=self.copy_requires_ro)}
        return {
            "large_reuse": rules.REUSES,
            "allowed_orders": rules.ALLOWED_ORDERS,
            "chosen_order": rules.CHOSEN_ORDERS,
            "copy_extent": blocks,
            "unshare_extent": blocks,
            "reuse_extent": runs,
        }

    @cached_property
    def rules(self) -> Rules:
        """The functions that decide, whether a field holds them or their names."""
        return Rules(**{field: self._rule(field, getattr(self, field)) for field in Rules._fields})

    def _rule(self, field: str, held: Any) -> Any:
        if not callable(held):
            return self._names[field][held]
        # Whoever wraps one of these rules (`functools.wraps`) takes its module's name along.
        if getattr(held, "__module__", "") == rules.__name__ and not hasattr(held, "__wrapped__"):
            return held
        return honest.Asked(held, f"policy {given.said(self.name)}: {field}={_name_of(held)}", honest.CHECKS[field])

    @cached_property
    def told(self) -> dict[tuple[int, ...], int]:
        """What a rule told a stream, by what it saw: nothing else decides what it says, so it is asked once."""
        return {}

    @classmethod
    def at(cls, version: str, arch: str = "x86-64") -> Policy:
        """What a release does: the sum of the changes up to it (`anonfolio.kernel.history.changes_between` lists some).

        Parameters
        ----------
        version : str
            ``"6.18.5"``, ``"6.18.44-cloud"``; ``"6.18"`` is the newest of its series. One to come is the newest known.
        arch : str
            ``"x86-64"``, ``"arm64"`` (with 4 KiB pages) or ``"arm64-16k"``, also as ``uname -m`` says it.

        Returns
        -------
        Policy
            The well-known policy that is the same, else one that is named after the last change in it.

        Raises
        ------
        ValueError
            The version is unreadable or older than the first that was checked, or the architecture is another.
        """
        made = _sum(version, arch)
        return next((known for known in POLICIES.values() if not differing(known, made)), made)

    def but(self, **changes: Any) -> Policy:
        """This policy with some fields changed: ``LINUX_6_15.but(name="mine", copy_extent="source_order")``."""
        known = {field.name for field in fields(self)}
        for field in changes:
            if field not in known:
                raise ValueError(f"a policy has no field {given.said(field)}; it has {', '.join(sorted(known))}")
        return replace(self, **changes)


def _check_rule(field: str, rule: Callable[..., Any]) -> None:
    """Raise ValueError, naming the rule and the case, for one that this field cannot hold."""
    try:
        hash(rule)
    except TypeError:
        raise ValueError(f"={given.said(rule)} cannot be hashed, so nor could the policy; give a function") from None
    try:
        if field == "large_reuse":
            honest.check_reuse(rule)
        elif field == "allowed_orders":
            honest.check_allowed_orders(rule)
        elif field == "chosen_order":
            honest.check_chosen_order(rule)
        else:
            honest.check_extent(rule, block=field != "reuse_extent")
    except ValueError as error:
        raise ValueError(f"={_name_of(rule)} {error}") from error.__cause__


def _name_of(rule: Callable[..., Any]) -> str:
    return getattr(rule, "__name__", None) or type(rule).__name__


def check_orders(orders: tuple[int, ...], whose: str) -> None:
    """Raise ValueError unless every order is one that an anonymous folio can have."""
    for order in orders:
        if type(order) is not int or order not in ANON_ORDERS:
            sizes = "orders are 2 to 9 (16 KiB to 2 MiB)"
            raise ValueError(f"{whose}: there is no anonymous folio of order {given.said(order)}; {sizes}")


def _sum(version: str, arch: str = "x86-64") -> Policy:
    rows = list(changes_up_to(version, arch))
    made = {field: value for row in rows for field, value in row.fields.items()}
    last = rows[-1]
    where = ARCHITECTURES[arch]
    newest = kernel_number(last.release) < kernel_number(LAST_RECORDED) <= kernel_number(version, NEWEST)
    name = f"linux-{LAST_RECORDED if newest else last.release}" + (f", {where}" if where != "x86-64" else "")
    # Two well-known names stand for what was run under them: 6.12 and 6.18.
    name += ".0" if name in ("linux-6.9", "linux-6.15") else ""
    there = [row for row in rows if row.release == last.release]
    changed = "; ".join(f"{', '.join(row.fields)} ({row.commit})" for row in there)
    about = f"Linux from {last.release} on ({where}); what changed there: {changed}."
    return Policy(name=name, about=about, **made)


LINUX_6_15 = _sum("6.18").but(
    name="linux-6.15",
    about="6.15 to 6.18, later but for small things: enabled sizes, one page a copy and a reuse, mm_id (1da190f4d0a6).",
)
LINUX_6_9 = _sum("6.12").but(
    name="linux-6.9",
    about="6.9 to 6.14: enabled sizes; a page of a large folio is reused only when it is marked exclusive.",
)
LINUX_6_8 = _sum("6.8").but(
    name="linux-6.8",
    about="6.8: enabled sizes; the last page that is left of a folio may be reused (by source, not recorded).",
)
LINUX_6_3 = _sum("6.1").but(
    name="linux-6.3",
    about="Up to 6.7: base pages or PMD size. Checked on 6.1; what changed between 6.1 and 6.7 follows 6.1.",
)
RFC_V2 = _sum("6.3").but(
    name="rfc-v2",
    about="RFC v2 of April 2023 as posted, on 6.3-rc6: a proposal, never merged. Its copy may take exclusive pages.",
    fixed_orders=(2, 3, 4),
    zero_page_write="first_touch",
    copy_extent="source_order",
    copy_requires_maybe_shared=False,
    large_reuse="scan",
    reuse_extent="range",
)
RFC_V2_FIXED = RFC_V2.but(
    name="rfc-v2-fixed",
    about="RFC v2 with the check from the review: a copy takes only maybe-shared pages. Never merged.",
    copy_requires_maybe_shared=True,
)

POLICIES: dict[str, Policy] = {
    policy.name: policy for policy in (LINUX_6_3, LINUX_6_8, LINUX_6_9, LINUX_6_15, RFC_V2, RFC_V2_FIXED)
}


def policy_named(name: str) -> Policy:
    """The policy of that name, or that of a release such as ``"6.14"`` (`Policy.at`); ValueError lists the names."""
    if not isinstance(name, str):
        raise ValueError(
            f"{given.said(name)} is neither a Policy nor a name; a name is text, such as 'linux-6.15' or '6.14'"
        )
    if name[:1].isdigit():
        return Policy.at(name)
    if not isinstance(name, str) or name not in POLICIES:
        raise ValueError(
            f"there is no policy {given.said(name)}; there are {', '.join(POLICIES)}, or a release such as 6.14"
        )
    return POLICIES[name]


def differing(policy: Policy, base: Policy) -> list[str]:
    """Names of the fields that decide something and are not the same."""
    names = [each.name for each in fields(Policy) if each.name not in ("name", "about")]
    return [name for name in names if getattr(policy, name) != getattr(base, name)]


def released(policy: Policy) -> bool:
    """Whether some kernel that was released does the same, whatever the policy is called."""
    return any(not differing(policy, kernel) for kernel in _releases())


@cache
def _releases() -> tuple[Policy, ...]:
    """Each that a change made; without a third number a version is the newest of its series."""
    numbers = (kernel_number(change.release) for change in HISTORY)
    versions = dict.fromkeys(".".join(map(str, number)) for number in numbers)
    return tuple(_sum(version, arch) for version in versions for arch in dict.fromkeys(ARCHITECTURES.values()))


def policy_for_kernel(version: str, arch: str = "x86-64") -> Policy:
    """The policy that models a kernel version such as ``"6.12.117"``: `Policy.at`.

    The recorded kernels have well-known ones: 6.1 linux-6.3, 6.12 linux-6.9, 6.18 linux-6.15.
    """
    return Policy.at(version, arch)
