"""What the sub-folders of a folder of images are: classes, splits, or images beside their masks."""

import re
from collections.abc import Sequence

from cssl_jax.errors import UserError

_SPLIT = "train(?:ing)?|trn|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?|tst|hold-?out"
_POOL = "unlabell?ed|labell?ed|extra"  # only beside a split, or beside each other
_WHAT = "images?|imgs?|pictures?|photos?|data|x"
# train, test1, train2017, trainA, val_images, training-set, imgs_test
_NAME = re.compile(
    rf"(?:(?:{_WHAT})[ _.-]?)?(?:(?P<split>{_SPLIT})|{_POOL})"
    rf"(?:[ _.-]?(?:set|split|part|full|{_WHAT}|\d+k?|[a-d]))*"
)
_IMAGES = re.compile(
    r"(?:rgb_?)?(?:images?|imgs?|jpe?g(?:images)?|pictures?|photos?|inputs?|leftimg8bit)"
)
_MASKS = re.compile(
    "masks?|annotations?|annots?|labels?|segmentation(?:class|object)?s?|segs?|gt(?:fine|coarse)?|"
    "ground_?truths?|targets?|trimaps?"
)


def check_are_classes(path: object, folders: Sequence[str]) -> None:
    """Refuses sub-folders that are splits or kinds of files: as classes they would be learnt.

    Raises:
        UserError: They are splits (train, test1, trainA, unlabeled), or images and masks.
    """
    names = [name.lower() for name in folders]
    if len(names) < 2:
        return
    matches = [_NAME.fullmatch(name) for name in names]
    pools = sum(bool(re.fullmatch("unlabell?ed|labell?ed", name)) for name in names) > 1
    if all(matches) and (pools or any(match and match["split"] for match in matches)):
        first = next((name for name in folders if "train" in name.lower()), folders[0])
        raise UserError(
            f"{path} holds the splits {_joined(folders)}, which are no classes; give one of them, "
            f"{path}/{first}{_validation(path, folders, first)}, or take all without labels by "
            "--data.labels none"
        )
    images = [name for name in folders if _IMAGES.fullmatch(name.lower())]
    masks = [name for name in folders if _MASKS.fullmatch(name.lower())]
    if images and masks and len(images) + len(masks) == len(names):
        raise UserError(
            f"{path} holds {_joined(folders)}, images and their masks, which are no classes; give "
            f"the images alone, {path}/{images[0]}. For `cssl-jax evaluate RUN --protocol segment` "
            f"give {path} with the sub-folders images and masks"
        )


def why_unlabelled(path: object, names: Sequence[str]) -> str:
    """Why images have no labels though sub-folders are there, and what to type; "" without any.

    Args:
        path: The folder.
        names: Paths of the images, relative to it with "/".
    """
    tops = {name.partition("/")[0] for name in names if "/" in name}
    stray = [name for name in names if "/" not in name]
    if not tops:
        return ""
    if stray:
        count = "1 image lies" if len(stray) == 1 else f"{len(stray):,} images lie"
        return (
            f"no labels: {count} in no sub-folder ({stray[0]}); move what belongs to no class out "
            f"of {path} to take its {len(tops):,} sub-folder(s) as classes"
        )
    (top,) = tops
    below = {name.split("/")[1] for name in names if name.count("/") > 1}
    if len(below) > 1:
        return (
            f"no labels: all images lie in one sub-folder, {top}; give {path}/{top} to take its "
            f"{len(below):,} sub-folders as classes"
        )
    return f"no labels: all images lie in one sub-folder, {top}; classes need two or more"


def _validation(path: object, folders: Sequence[str], first: str) -> str:
    others = [name for name in folders if re.search("val|test|dev|eval", name.lower())]
    others = [name for name in others if name != first and name[-1] not in "Bb"]
    if not others or "train" not in first.lower():
        return ""
    chosen = next((name for name in others if "val" in name.lower()), others[0])
    return f" (with --data.validation-source {path}/{chosen})"


def _joined(names: Sequence[str]) -> str:
    shown = [*names[:6], *([f"{len(names) - 6} more"] if len(names) > 6 else [])]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
