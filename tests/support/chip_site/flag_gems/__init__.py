"""What the tests import as flag_gems: the wheel's tuner, launch cache and database around the kernels of the tests."""

from __future__ import annotations

import sys
import types

import chip_stand_in
import torch
from triton.runtime.driver import driver

__version__ = "5.0.2"
__path__ = []
device = "cpu"
vendor_name = "nvidia"

chip_stand_in.Event.chip = chip = chip_stand_in.Chip()
driver.set_active(chip)
vars(torch.cpu)["Event"] = chip_stand_in.Event
vars(torch.cpu)["get_device_properties"] = lambda _: types.SimpleNamespace(L2_cache_size=4096)
chip_stand_in.load_libentry(chip_stand_in.wheel_folder(chip_stand_in.cache_folder()))

import chip_kernels  # noqa: E402, F401 -- its decorators need the tuner above
from chip_kernels import inner_once, mm, mm_out, neg, silu  # noqa: E402

_FULL_CONFIG = (("mm", mm), ("mm.out", mm_out), ("neg", neg), ("silu", silu), ("inner", inner_once))
FULL_CONFIG_BY_FUNC = {entry[1].__name__: [entry] for entry in _FULL_CONFIG}
assert sys.modules["flag_gems.utils.libentry"]
