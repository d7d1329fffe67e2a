"""Licences as the front matter of a card states them, and where their texts are. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

TITLES: Mapping[str, tuple[str, str]] = {
    "apache-2.0": ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "mit": ("MIT License", "https://opensource.org/license/mit"),
    "bsd-3-clause": ("BSD 3-Clause License", "https://opensource.org/license/bsd-3-clause"),
    "cc-by-4.0": ("Creative Commons Attribution 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "gpl-3.0": ("GNU General Public License 3.0", "https://www.gnu.org/licenses/gpl-3.0.html"),
}
"""Names in text and texts of the most frequent licences. The others are shown by their identifier."""

# Hugging Face refuses a card with any other value: its list is closed, and neither it nor ModelScope publishes one as a
# library. Taken from the hub's own message, huggingface_hub issue 4218 (May 2026). An identifier that is missing here
# is written as `other` with the name in `license_name`, which every hub accepts.
HUB_LICENCES: Set[str] = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research",
    "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "grok2-community", "gemma",
}  # fmt: skip
"""Values of `license` in a card's front matter that hubs know, without `other` and `unknown`."""


def text_url(licence: str) -> str:
    """Where the text of a licence with an SPDX identifier is; empty for one without."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return f"https://spdx.org/licenses/{canonicalize_license_expression(_SPDX.get(licence, licence))}.html"
    except InvalidLicenseExpression:
        return ""


_SPDX = {"odc-by": "odc-by-1.0", "odbl": "odbl-1.0", "pddl": "pddl-1.0", "lgpl-lr": "lgpllr"}
"""SPDX identifiers of licences for which hubs have names of their own. `bsl-1.0` is the Boost licence in both."""
