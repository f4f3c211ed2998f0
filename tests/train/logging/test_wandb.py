"""The W&B writer, with the real package offline where it is installed."""

import struct
import sys
import time

import pytest

from cssl_jax.errors import UserError
from cssl_jax.train.logging.writers import WandB


def payloads(path):
    """Records of an offline file: LevelDB's log format after 7 bytes of its own."""
    content, position, parts = path.read_bytes(), 7, []
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block that holds no header
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def records(folder):
    """What an offline run keeps: (history rows by step, config, run ids)."""
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


def test_figures_and_config_are_logged_and_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for steps in ((1, 2), (3,)):
        writer = WandB("contrastive", tmp_path, {"train": {"seed": 3}})
        for step in steps:
            writer.write(step, {"loss": step / 4, "note": "no number"})
        writer.close()
        time.sleep(1)  # W&B names the folder of each start by the second
    history, config, identities = records(tmp_path)
    assert {step: float(row["loss"]) for step, row in history.items()} == {1: 0.25, 2: 0.5, 3: 0.75}
    assert "note" not in history[1]
    assert '"seed":3' in config["train"].replace(" ", "")
    assert len(identities) == 1


def test_where_nobody_is_logged_in_the_message_says_the_ways_out(tmp_path, monkeypatch):
    pytest.importorskip("wandb").teardown()  # it remembers the mode of an earlier run
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key would lie
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(
        UserError,
        match=r"'contrastive', but W&B refuses: No API key.*`wandb login`.*WANDB_MODE=offline",
    ):
        WandB("contrastive", tmp_path, {})


def test_where_wandb_is_missing_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandB("contrastive", tmp_path, {})
