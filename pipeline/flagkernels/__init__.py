"""flagkernels: operators as a release artefact, on the chip's side.

trace → qualify → tune → bench → select → bundle → activate, and attribute when a gate failed. Every step is
a subcommand of `python -m flagkernels`, reads files, writes files and can be repeated alone. Needs torch,
Triton and FlagGems; never imports flagrelease.
"""
