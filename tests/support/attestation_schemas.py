"""JSON schemas of in-toto's Statement v1 and of the predicates that a release has, after their specifications."""

from typing import Any

_DIGESTS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"}}
_DESCRIPTOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "uri": {"type": "string"},
        "digest": _DIGESTS,
        "annotations": {"type": "object"},
    },
    "additionalProperties": False,
    "anyOf": [{"required": ["name"]}, {"required": ["uri"]}, {"required": ["digest"]}],
}
_DESCRIPTORS = {"type": "array", "items": _DESCRIPTOR}
_NAMES = {"type": "array", "items": {"type": "string"}}
_URI = {"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:"}

STATEMENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "subject": {"type": "array", "minItems": 1, "items": {**_DESCRIPTOR, "required": ["digest"]}},
        "predicateType": _URI,
        "predicate": {"type": "object"},
    },
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
}

PREDICATES: dict[str, dict[str, Any]] = {
    "https://slsa.dev/provenance/v1": {
        "type": "object",
        "properties": {
            "buildDefinition": {
                "type": "object",
                "properties": {
                    "buildType": _URI,
                    "externalParameters": {"type": "object"},
                    "internalParameters": {"type": "object"},
                    "resolvedDependencies": _DESCRIPTORS,
                },
                "required": ["buildType", "externalParameters"],
                "additionalProperties": False,
            },
            "runDetails": {
                "type": "object",
                "properties": {
                    "builder": {
                        "type": "object",
                        "properties": {"id": _URI, "version": {"type": "object"}},
                        "required": ["id"],
                        "additionalProperties": False,
                    },
                    "metadata": {
                        "type": "object",
                        "properties": {"invocationId": {"type": "string"}},
                        "additionalProperties": False,
                    },
                    "byproducts": _DESCRIPTORS,
                },
                "required": ["builder"],
                "additionalProperties": False,
            },
        },
        "required": ["buildDefinition", "runDetails"],
        "additionalProperties": False,
    },
    "https://in-toto.io/attestation/test-result/v0.1": {
        "type": "object",
        "properties": {
            "result": {"enum": ["PASSED", "WARNED", "FAILED"]},
            "configuration": _DESCRIPTORS,
            "url": _URI,
            "passedTests": _NAMES,
            "warnedTests": _NAMES,
            "failedTests": _NAMES,
            "flagrelease_measured": {"type": "object"},
        },
        "required": ["result", "configuration"],
        "additionalProperties": False,
    },
    "https://slsa.dev/verification_summary/v1": {
        "type": "object",
        "properties": {
            "verifier": {
                "type": "object",
                "properties": {"id": _URI, "version": {"type": "object", "additionalProperties": {"type": "string"}}},
                "required": ["id"],
                "additionalProperties": False,
            },
            "resourceUri": {"type": "string"},
            "policy": _DESCRIPTOR,
            "inputAttestations": {"type": "array", "items": {**_DESCRIPTOR, "required": ["uri", "digest"]}},
            "verificationResult": {"enum": ["PASSED", "FAILED"]},
            "verifiedLevels": {"type": "array", "items": {"type": "string", "pattern": "^(?!SLSA_).+"}},
            "slsaVersion": {"type": "string"},
        },
        "required": ["verifier", "resourceUri", "policy", "verificationResult", "verifiedLevels"],
        "additionalProperties": False,
    },
}
