"""Decides whether the sub-folders of an image folder are classes, splits, or images and masks."""

import re
from collections.abc import Sequence

from cssl_jax.errors import UserError

_SPLIT = "train(?:ing)?|trn|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?|tst|hold-?out"
# Names that are splits only next to a split; "labeled" and "unlabeled" also next to each other.
_POOL = "unlabell?ed|labell?ed|extra"
_CONTENT = "images?|imgs?|pictures?|photos?|data|x"
# train, test1, train2017, trainA, val_images, training-set, imgs_test
_NAME = re.compile(
    rf"(?:(?:{_CONTENT})[ _.-]?)?(?:(?P<split>{_SPLIT})|{_POOL})"
    rf"(?:[ _.-]?(?:set|split|part|full|{_CONTENT}|\d+k?|[a-d]))*"
)
_IMAGES = re.compile(
    r"(?:rgb_?)?(?:images?|imgs?|jpe?g(?:images)?|pictures?|photos?|inputs?|leftimg8bit)"
)
_MASKS = re.compile(
    "masks?|annotations?|annots?|labels?|segmentation(?:class|object)?s?|segs?|gt(?:fine|coarse)?|"
    "ground_?truths?|targets?|trimaps?"
)


def check_are_classes(path: object, folders: Sequence[str]) -> None:
    """Refuses sub-folders that are splits, or images and masks.

    Taken as classes, they would be learnt without any error.

    Args:
        path: Folder of the sub-folders, for messages.
        folders: Names of the sub-folders.

    Raises:
        UserError: The sub-folders are splits (train, test1, trainA, unlabeled), or images and
            masks.
    """
    names = [name.lower() for name in folders]
    if len(names) < 2:
        return
    matches = [_NAME.fullmatch(name) for name in names]
    pools = sum(bool(re.fullmatch("unlabell?ed|labell?ed", name)) for name in names) > 1
    if all(matches) and (pools or any(match and match["split"] for match in matches)):
        first = next((name for name in folders if "train" in name.lower()), folders[0])
        raise UserError(
            f"{path} contains the splits {_joined(folders)}, which are not classes; give one of "
            f"them, {path}/{first}{_validation_hint(path, folders, first)}, or use all images "
            "without labels by --data.labels none"
        )
    images = [name for name in folders if _IMAGES.fullmatch(name.lower())]
    masks = [name for name in folders if _MASKS.fullmatch(name.lower())]
    if images and masks and len(images) + len(masks) == len(names):
        raise UserError(
            f"{path} contains {_joined(folders)}, images and their masks, which are not classes; "
            f"give the images alone, {path}/{images[0]}. For `cssl-jax evaluate RUN --protocol "
            f"segment` give {path} with the sub-folders images and masks"
        )


def why_unlabelled(path: object, names: Sequence[str], noun: str = "images") -> str:
    """Explains why files in sub-folders have no labels, and how to get labels.

    Args:
        path: The folder.
        names: Paths of the files relative to the folder, with "/".
        noun: Plural noun for the files.

    Returns:
        The sentence for the user; "" if the folder has no sub-folders.
    """
    tops = {name.partition("/")[0] for name in names if "/" in name}
    stray = [name for name in names if "/" not in name]
    if not tops:
        return ""
    if stray:
        count = (
            f"1 {noun.removesuffix('s')} is" if len(stray) == 1 else f"{len(stray):,} {noun} are"
        )
        return (
            f"no labels: {count} in no sub-folder ({stray[0]}); move {noun} without a class out of "
            f"{path} to use its {len(tops):,} sub-folder(s) as classes"
        )
    (top,) = tops
    below = {name.split("/")[1] for name in names if name.count("/") > 1}
    if len(below) > 1:
        return (
            f"no labels: all {noun} are in one sub-folder, {top}; give {path}/{top} to use its "
            f"{len(below):,} sub-folders as classes"
        )
    return f"no labels: all {noun} are in one sub-folder, {top}; classes need two or more"


def _validation_hint(path: object, folders: Sequence[str], first: str) -> str:
    """The option for the validation split next to the training split ``first``; "" without one."""
    others = [name for name in folders if re.search("val|test|dev|eval", name.lower())]
    # A name that ends in B is the other domain of an unpaired set, such as testB of CycleGAN.
    others = [name for name in others if name != first and name[-1] not in "Bb"]
    if not others or "train" not in first.lower():
        return ""
    chosen = next((name for name in others if "val" in name.lower()), others[0])
    return f" (with --data.validation-source {path}/{chosen})"


def _joined(names: Sequence[str]) -> str:
    shown = [*names[:6], *([f"{len(names) - 6} more"] if len(names) > 6 else [])]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
