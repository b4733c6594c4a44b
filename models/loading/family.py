"""Which networks belong together: the codec and text encoder that made latents, the transformer, the vocoder.

Hashes say it exactly, where a checkpoint folder holds the part. Where it does not (training needs the transformer
alone), each part's config.json says which family it is of.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from common.bases import ACE_STEP_1, ACE_STEP_15, BaseOrigin, BaseSpec
from common.canonical import sha256_of_file
from common.config import SettingsDict, read_json
from common.errors import UserError
from common.progress import say
from models.acestep1 import sizes as acestep1
from models.acestep15 import sizes as acestep15
from models.loading.checkpoint import (
    BUNDLES,
    bundle_of,
    is_whole,
    part_files,
    part_hash,
    resolve_checkpoint,
    spec_of,
    variant_of,
)
from models.loading.hub import revision_of

FAMILIES: Mapping[str, Mapping[str, Sequence[SettingsDict]]] = {
    ACE_STEP_1.name: acestep1.PUBLISHED.of_parts(),
    "tiny": acestep1.TINY.of_parts(),
    ACE_STEP_15.name: acestep15.PUBLISHED_PARTS,
    "tiny15": acestep15.TINY_PARTS,
}
"""Networks that go together: per part, the settings that it may have."""
PUBLISHED_HASHES = frozenset(
    {
        "7cc1e50cedadda72bc03fd0f8b1f19fb8377e55be8a8f6db10445a1b0e2b43ef",
        "e49867c15c3898a2675572381ffb51d911bcbc04bcad255aed89686069d32940",
    }
)
"""part_hash of the published transformer and codec."""


def choose_checkpoint(given: str | None, base: BaseOrigin | None, what: object = None) -> str:
    """The --checkpoint-dir that is `given`, else that which made `what`; then it is said. There is no other default.

    A Hugging Face id without a revision means the commit that made `what`, if that was of the same id.
    Raises UserError where neither names one.
    """
    if given is not None:
        return base.name or given if base and given == base.checkpoint else given
    if base is not None and base.name is not None:
        say(f"{what}: made with checkpoint {base.name}, which is used here too.")
        return base.name
    unsaid = "which base model?" if base is None else f"{what}: made with a checkpoint that it does not name."
    raise UserError(
        f"{unsaid} Give --checkpoint-dir {ACE_STEP_1.published_id}, or a folder of that layout; "
        "--checkpoint-dir tiny is for trying."
    )


def describe_base(name: str, folder: Path, part: str) -> BaseOrigin:
    """What a checkpoint, found in `folder` under its `name`, is recorded as; `part` decides the family."""
    revision = revision_of(folder)
    named = bundle_of(name) is not None or (revision is not None and not Path(name).expanduser().is_dir())
    spec = spec_of(folder)
    has_variants = part == spec.parts.transformer and len(spec.samplings) > 1
    return BaseOrigin(
        model=spec.name,
        variant=variant_of(folder) if has_variants else None,
        family=family_of(folder, part),
        checkpoint=name.partition("@")[0] if named else None,
        revision=revision if named else None,
    )


def find_encoders(checkpoint: str) -> tuple[Path, BaseOrigin]:
    """The folder that holds a checkpoint's codec and text encoder, and what it is recorded as.

    Raises UserError where one is missing, or they are of several families.
    """
    parts = spec_of(checkpoint).parts
    folder = resolve_checkpoint(checkpoint, parts.encoders)
    check_one_family(checkpoint, folder, parts.encoders)
    return folder, describe_base(checkpoint, folder, parts.codec)


def known_base(base: BaseOrigin | None, hashes: Iterable[str]) -> BaseOrigin:
    """`base`, as far as it was recorded, and what the hashes of its networks tell."""
    found = frozenset(hashes)
    if found and (base is None or base.name is None):
        for word in BUNDLES:
            if found & _bundle_hashes(word):
                return _bundle_origin(word)
    return base or BaseOrigin(family="ace-step-1" if found & PUBLISHED_HASHES else None)


@cache
def _bundle_origin(word: str) -> BaseOrigin:
    """What a bundle, which is not looked at again, is recorded as."""
    return describe_base(word, BUNDLES[word], spec_of(word).parts.codec)


@cache
def _bundle_hashes(word: str) -> frozenset[str]:
    """Of the networks by which a bundle is told, which is not looked at again."""
    parts = spec_of(word).parts
    return frozenset(part_hash(BUNDLES[word], part) for part in (parts.transformer, parts.codec))


def family_of(folder: Path, part: str) -> str | None:
    """The family whose sizes a part's config.json has; None for other sizes, or without such a file."""
    known = [(family, config) for family, parts in FAMILIES.items() for config in parts.get(part, ())]
    path = part_files(folder, part)[0] if part in spec_of(folder).files else None
    config = read_json(path) if path is not None and path.is_file() else None
    if not isinstance(config, dict):
        return None
    for family, wanted in known:
        if all(config.get(key) == wanted[key] for key in _telling(part)):
            return family
    return None


@cache
def _telling(part: str) -> frozenset[str]:
    """Settings that all families name, and in which they differ."""
    each = [config for parts in FAMILIES.values() for config in parts.get(part, ())]
    named = {key for key in each[0] if all(key in config for config in each) and not key.startswith("_")}
    return frozenset(key for key in named if any(config[key] != each[0][key] for config in each))


def check_one_family(name: str, folder: Path, parts: Iterable[str]) -> None:
    """Raises UserError where a checkpoint's parts are of several families."""
    known = [(part, family) for part in parts if (family := family_of(folder, part))]
    for part, family in known[1:]:
        if family != known[0][1]:
            raise UserError(
                f"{name}: its {known[0][0]} is of {known[0][1]}, its {part} of {family}. Take all parts from one "
                "checkpoint."
            )


def check_one_base(what: object, base: BaseOrigin, name: str, spec: BaseSpec) -> None:
    """Raises UserError where `what`, of a `base`, and the checkpoint `name` are not of one base model."""
    if base.spec is not spec:
        raise UserError(f"{what}: is of {base.spec.name}, {name} is of {spec.name}. {_way_out(base)}")


def _way_out(base: BaseOrigin) -> str:
    return f"Use the checkpoint that made it{f' (--checkpoint-dir {base.name})' if base.name else ''}."


def check_belongs(
    what: object, base: BaseOrigin, networks: Mapping[str, str], name: str, folder: Path, *, parts: Iterable[str]
) -> None:
    """Raises UserError unless `what`, made with `networks` of a `base`, goes with the checkpoint `name` in `folder`.

    `parts` are those that are used; of them and of what made the latents, whatever the folder holds is compared by
    content, the rest by family. What can be told by neither is said.
    """
    check_one_base(what, base, name, spec_of(folder))
    way_out, compared = _way_out(base), False
    for part in parts:
        family = family_of(folder, part)
        compared |= family is not None and base.family is not None
        if family is not None and base.family not in (None, family):
            raise UserError(f"{what}: is of {base.family}, the {part} of {name} is of {family}. {way_out}")
    for network, ours in _hashes(folder, networks).items():
        compared = True
        if ours != networks[network]:
            raise UserError(
                f"{what}: made with {network} {networks[network][:8]}, that of {name} is {ours[:8]}. {way_out}"
            )
    if not compared:
        say(f"{what}: cannot be told to belong to {name}; taken as if it did.")


def check_alike(
    what: object,
    base: BaseOrigin,
    networks: Mapping[str, str],
    other: object,
    theirs: BaseOrigin,
    those: Mapping[str, str],
) -> None:
    """Raises UserError where `what`, made with `networks` of `base`, and `other`, with `those` of `theirs`, differ."""
    ours, others = base.family or base.model, theirs.family or theirs.model
    if base.spec is not theirs.spec or (base.family and theirs.family and ours != others):
        raise UserError(f"{what}: is of {ours}, {other} is of {others}. Give one that goes with it.")
    for network in sorted(networks.keys() & those.keys()):
        if networks[network] != those[network]:
            raise UserError(
                f"{what}: made with {network} {networks[network][:8]}, {other} with {those[network][:8]}. "
                "Encode it with prep encode --adapter."
            )


def _hashes(folder: Path, networks: Mapping[str, str]) -> dict[str, str]:
    """Those of `networks` that decide latents and texts, as far as the folder holds them whole."""
    found: dict[str, str] = {}
    spec = spec_of(folder)
    for part in spec.parts.encoders:
        if part in networks and is_whole(folder, part):
            found[part] = part_hash(folder, part)
    name = spec.lyric_vocabulary
    if name is not None and name in networks and (folder / name).is_file():
        found[name] = sha256_of_file(folder / name)
    return found
