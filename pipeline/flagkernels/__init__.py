"""flagkernels: qualify, tune, bundle and activate operators on the chip.

trace → qualify → tune → bench → select → bundle → activate; attribute after a failed gate. Every step is a
subcommand of `python -m flagkernels` that reads and writes files and can be repeated alone. Needs torch, Triton
and FlagGems; never imports flagrelease.
"""
