"""BERT encoders in folders of the library sentence-transformers; torch is not needed."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError, cut
from cssl_jax.interop import safetensors

WEIGHTS_FILE = "model.safetensors"
# Hugging Face's module of a BERT -> ours. Weights of dense layers are [out, in] there.
_EMBEDDINGS = {
    "embeddings.word_embeddings": ("word",),
    "embeddings.position_embeddings": ("position",),
    "embeddings.token_type_embeddings": ("type",),
    "embeddings.LayerNorm": ("norm",),
}
_BLOCK = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp1",
    "output.dense": "mlp2",
    "output.LayerNorm": "norm2",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_UNUSED = re.compile(r"pooler\.|embeddings\.position_ids$|cls\.")
_NEEDED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceTransformer:
    """Content of a folder of sentence-transformers.

    Attributes:
        params: Parameters of ``models.text.bert.Bert``.
        tokenizer: Tokenizer as JSON.
        length: Maximum number of tokens of a text.
        vocabulary: Number of tokens.
        layers: Number of blocks.
        hidden: Number of channels.
        heads: Number of attention heads.
        inner: Width of the MLPs.
    """

    params: dict[str, Any]
    tokenizer: str
    length: int
    vocabulary: int
    layers: int
    hidden: int
    heads: int
    inner: int


def from_bert(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of our BERT from tensors with Hugging Face's names.

    A prefix "bert." is accepted. The pooler and the heads of pretraining are omitted.

    Args:
        tensors: Name -> array.

    Raises:
        UserError: A name is no weight of a BERT.
    """
    params: dict[str, Any] = {}
    for name, array in tensors.items():
        plain = name.removeprefix("bert.")
        if _UNUSED.match(plain):
            continue
        module, _, leaf = plain.rpartition(".")
        path = _our_path(module)
        if path is None or leaf not in ("weight", "bias"):
            raise UserError(f"{cut(name)} is no weight of a BERT encoder")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        node[_our_leaf(path, leaf)] = np.ascontiguousarray(
            array.T if _is_dense(path) and leaf == "weight" else array
        )
    return params


def to_bert(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors with Hugging Face's names from parameters of our BERT."""
    theirs = {path[0]: module for module, path in _EMBEDDINGS.items()}
    blocks = {ours: module for module, ours in _BLOCK.items()}
    tensors = {}
    for name, node in params.items():
        if not name.startswith("block"):
            for leaf, value in node.items():
                tensors[f"{theirs[name]}.{_their_leaf(leaf)}"] = np.asarray(value)
            continue
        number = int(name.removeprefix("block")) - 1
        for ours, leaves in node.items():
            for leaf, value in leaves.items():
                array = np.asarray(value)
                array = np.ascontiguousarray(array.T if leaf == "kernel" else array)
                full = f"encoder.layer.{number}.{blocks[ours]}.{_their_leaf(leaf)}"
                tensors[full] = array
    return tensors


def is_bert(place: str | pathlib.Path) -> bool:
    """True for a folder whose config.json describes a BERT encoder."""
    path = pathlib.Path(place).expanduser() / "config.json"
    return path.is_file() and _read_json(path).get("model_type") == "bert"


def read_sentence_transformer(folder: str | pathlib.Path) -> SentenceTransformer:
    """Reads a BERT encoder with mean pooling.

    Args:
        folder: Folder with config.json, model.safetensors and tokenizer.json, and optionally
            modules.json, 1_Pooling/config.json and sentence_bert_config.json.

    Raises:
        UserError: A file is missing or damaged, or the model is another one than ours computes.
    """
    folder = pathlib.Path(folder).expanduser()
    config = _read_json(folder / "config.json")
    for name, value in _NEEDED.items():
        if config.get(name) != value:
            raise UserError(
                f"{folder / 'config.json'}: {name} is {config.get(name)!r}, and the encoder of "
                f"text has {value!r}"
            )
    _check_pooling(folder)
    params = from_bert(safetensors.read(folder / WEIGHTS_FILE))
    sizes = {
        ours: _integer(config, theirs, folder)
        for ours, theirs in (
            ("vocabulary", "vocab_size"),
            ("layers", "num_hidden_layers"),
            ("hidden", "hidden_size"),
            ("heads", "num_attention_heads"),
            ("inner", "intermediate_size"),
        )
    }
    limit = folder / "sentence_bert_config.json"
    length = _integer(_read_json(limit), "max_seq_length", folder) if limit.is_file() else 512
    try:
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {folder / 'tokenizer.json'}: {error}") from error
    return SentenceTransformer(params=params, tokenizer=tokenizer, length=min(length, 512), **sizes)


def write_sentence_transformer(folder: str | pathlib.Path, model: SentenceTransformer) -> None:
    """Writes a folder that ``sentence_transformers.SentenceTransformer(folder)`` opens.

    Args:
        folder: Folder to write; it is created if it does not exist.
        model: Encoder with its tokenizer.
    """
    folder = pathlib.Path(folder).expanduser()
    config = {
        **_NEEDED,
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.inner,
        "num_attention_heads": model.heads,
        "num_hidden_layers": model.layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "vocab_size": model.vocabulary,
    }
    module = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
    ]
    pooling = {"word_embedding_dimension": model.hidden, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", config),
        ("modules.json", modules),
        ("1_Pooling/config.json", {**pooling, "pooling_mode_cls_token": False}),
        ("sentence_bert_config.json", {"max_seq_length": model.length, "do_lower_case": False}),
        ("tokenizer_config.json", _tokenizer_config(model)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(model.tokenizer, encoding="utf-8")
    safetensors.write(folder / WEIGHTS_FILE, to_bert(model.params), {"format": "pt"})


def _tokenizer_config(model: SentenceTransformer) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.length,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }


def _check_pooling(folder: pathlib.Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return
    modes = {name for name, value in _read_json(path).items() if value is True}
    if modes != {"pooling_mode_mean_tokens"}:
        raise UserError(f"{path} requests {sorted(modes)}; the encoder of text has the mean alone")


def _our_path(module: str) -> tuple[str, ...] | None:
    if module in _EMBEDDINGS:
        return _EMBEDDINGS[module]
    found = _LAYER.fullmatch(module)
    if found is None or found[2] not in _BLOCK:
        return None
    return f"block{int(found[1]) + 1}", _BLOCK[found[2]]


def _is_dense(path: tuple[str, ...]) -> bool:
    return len(path) == 2 and not path[1].startswith("norm")


def _our_leaf(path: tuple[str, ...], leaf: str) -> str:
    if leaf == "bias":
        return "bias"
    if path[-1].startswith("norm"):
        return "scale"
    return "kernel" if _is_dense(path) else "embedding"


def _their_leaf(leaf: str) -> str:
    return "bias" if leaf == "bias" else "weight"


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object")
    return content


def _integer(content: dict[str, Any], name: str, folder: pathlib.Path) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{folder}: {name} is {value!r}; a positive whole number is expected")
    return value
