"""W&B writer: tested offline with the real package, if it is installed."""

import struct
import sys
import time

import pytest

from cssl_jax.errors import UserError
from cssl_jax.train.logging.writers import WandB


def payloads(path):
    """Records of an offline file: a 7-byte header, then the log format of LevelDB."""
    content, position, fragments = path.read_bytes(), 7, []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the end of a block, too short for a header
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        fragments.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # a complete record, or the last fragment of one
            yield b"".join(fragments)
            fragments = []


def records(folder):
    """(history rows per step, config, run ids) of an offline run."""
    from wandb.proto import wandb_internal_pb2

    history, config, identities = {}, {}, set()
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for payload in payloads(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = {
                    (i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item
                }
                history[int(items["_step"])] = items
            elif kind == "run":
                identities.add(record.run.run_id)
                config |= {i.key: i.value_json for i in record.run.config.update}
    return history, config, identities


@pytest.mark.slow
def test_metrics_and_config_are_logged_and_a_resumed_run_has_the_same_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for steps in ((1, 2), (3,)):
        writer = WandB("contrastive", tmp_path, {"train": {"seed": 3}})
        for step in steps:
            writer.write(step, {"loss": step / 4, "note": "no number"})
        writer.close()
        time.sleep(1)  # W&B names the folder of each start by a time stamp in seconds
    history, config, identities = records(tmp_path)
    assert {step: float(row["loss"]) for step, row in history.items()} == {1: 0.25, 2: 0.5, 3: 0.75}
    assert "note" not in history[1]
    assert '"seed":3' in config["train"].replace(" ", "")
    assert len(identities) == 1


def test_without_a_login_the_message_names_remedies(tmp_path, monkeypatch):
    pytest.importorskip("wandb").teardown()  # discards the mode of an earlier run
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where W&B looks for a key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(
        UserError,
        match=r"'contrastive', but W&B reports: No API key.*`wandb login`.*WANDB_MODE=offline",
    ):
        WandB("contrastive", tmp_path, {})


def test_without_wandb_the_message_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandB("contrastive", tmp_path, {})
