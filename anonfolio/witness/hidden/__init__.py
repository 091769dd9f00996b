"""The kernel's own state, which it shows to nobody: struct page, struct folio, page tables, VMAs.

`bpf` reads kernel memory, `btf` and `layout` say where in it things are, `reader` follows them: ``with Kernel() as
kernel: kernel.look(pid)``.
"""
