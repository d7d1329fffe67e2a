"""The dress rehearsal of a cell on a machine without its chip: everything is real but the chip."""
