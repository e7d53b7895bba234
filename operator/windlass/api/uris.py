"""Forms and rules of the URIs that specs hold: hf://, pvc:// and mlflow://.

Models, data and the checkpoint store use these types. Whether a URI leads anywhere is for the pods to
find out. A message must never show what stands before an '@' in the authority: it may be a password.
"""

import re
from typing import Annotated, Any, Final

from pydantic import Field

from windlass.api.rules import Computed, Hint, Rule, matches, quote

URI: Final = r"^(hf|pvc|mlflow)://[A-Za-z0-9][A-Za-z0-9._/@:-]*$"
STORE: Final = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._/-]*)?$"

CREDENTIALS: Final = r"^[A-Za-z0-9+.-]*://[^/]*@"
KNOWN_SCHEME: Final = r"^(hf|pvc|mlflow)://"
CHARACTERS: Final = r"^[A-Za-z0-9._/@:-]+$"
CLIMBS: Final = r"(^|/)\.\.(/|$)"
PVC: Final = r"^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9._/@:-]+$"
HUB: Final = r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._@/:-]*$"
MLFLOW: Final = r"^mlflow://models:/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9_-]+|/[1-9][0-9]*)$"


def _form(scheme: str, pattern: str, *, allowed: str, hint: str) -> Rule:
    start = f"{scheme}://"
    return Rule(
        cel=(
            f"!self.startsWith({quote(start)}) || self.matches({quote(CREDENTIALS)}) || "
            f"self.matches({quote(pattern)})"
        ),
        holds=lambda value, _: (
            not value.startswith(start) or matches(CREDENTIALS, value) or matches(pattern, value)
        ),
        wrong=f"is not a {scheme} URI",
        got="{self}",
        allowed=allowed,
        hint=hint,
    )


def _masked(value: Any) -> str:
    return re.sub(CREDENTIALS, lambda found: found.group(0).split("://")[0] + "://***@", value)


NO_CREDENTIALS: Final = Rule(
    cel=f"!self.matches({quote(CREDENTIALS)})",
    holds=lambda value, _: not matches(CREDENTIALS, value),
    wrong="credentials in a URI are not allowed",
    got="{masked}",
    allowed="a URI without user and password",
    hint="put the credential into a Secret of this namespace and name it in secretRef beside the uri",
    computed={
        "masked": Computed(
            'self.substring(0, self.indexOf("://")) + "://***" + self.substring(self.indexOf("@"))', _masked
        )
    },
    forbidden=True,
)
SCHEME: Final = Rule(
    cel=f"self.matches({quote(CREDENTIALS)}) || self.matches({quote(KNOWN_SCHEME)})",
    holds=lambda value, _: matches(CREDENTIALS, value) or matches(KNOWN_SCHEME, value),
    wrong="scheme is not supported",
    got="{self}",
    allowed="hf://, pvc:// and mlflow://",
    hint="put the files on a PersistentVolumeClaim of this namespace and write pvc://claim/path",
)
CHARACTERS_ONLY: Final = Rule(
    cel=f"self.matches({quote(CREDENTIALS)}) || self.matches({quote(CHARACTERS)})",
    holds=lambda value, _: matches(CREDENTIALS, value) or matches(CHARACTERS, value),
    wrong="holds a character that a URI here may not hold",
    got="{self}",
    allowed="letters, digits and . _ / @ : -",
    hint="rename the file or directory without spaces and control characters",
)
NO_CLIMBING: Final = Rule(
    # What may hold a credential is shown by the rule about those alone, which masks it.
    cel=f"self.matches({quote(CREDENTIALS)}) || !self.matches({quote(CLIMBS)})",
    holds=lambda value, _: matches(CREDENTIALS, value) or not matches(CLIMBS, value),
    wrong="path must not contain '..'",
    got="{self}",
    allowed="a path below the root of the claim or repository",
    hint="write the path from the root, without '..'",
)
URI_RULES: Final = (
    NO_CREDENTIALS,
    SCHEME,
    CHARACTERS_ONLY,
    NO_CLIMBING,
    _form(
        "pvc",
        PVC,
        allowed="pvc://claim/path, where claim is a PersistentVolumeClaim of the job's own namespace",
        hint="claims of other namespaces cannot be used; write for example pvc://data/sft/train.jsonl",
    ),
    _form(
        "hf",
        HUB,
        allowed="hf://organisation/name or hf://organisation/name@revision",
        hint="copy the name from the model's page, for example hf://HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    _form(
        "mlflow",
        MLFLOW,
        allowed="mlflow://models:/name@alias or mlflow://models:/name/version",
        hint="see the model's page in MLflow, for example mlflow://models:/support-bot@candidate",
    ),
)

Uri = Annotated[str, Field(pattern=URI, min_length=1, max_length=1024), *URI_RULES]

StoreUri = Annotated[
    str,
    Field(pattern=STORE, min_length=1, max_length=1024),
    Hint(
        "name a ReadWriteMany PersistentVolumeClaim of this namespace, for example pvc://checkpoints/team-a",
        allowed="pvc://claim or pvc://claim/path",
    ),
    NO_CLIMBING,
]


def split_claim_uri(uri: str) -> tuple[str, str]:
    """Claim and path (without slashes at its ends) of a `pvc://claim/path` URI."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return claim, path.strip("/")


def no_registry(path: str) -> Rule:
    """Data cannot come from a model registry."""

    def holds(value: Any, _: Any) -> bool:
        return path not in value or not value[path].startswith("mlflow://")

    return Rule(
        cel=f"!has(self.{path}) || !self.{path}.startsWith('mlflow://')",
        holds=holds,
        wrong="data cannot come from a model registry",
        got=f"{{self.{path}}}",
        allowed="pvc://claim/path or hf://organisation/name",
        hint="put the samples on a PersistentVolumeClaim and write pvc://claim/path",
        path=path,
    )
