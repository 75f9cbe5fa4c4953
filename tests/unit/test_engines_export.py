"""`heedful export`: a GGUF file and a merged folder of a run, beside it or elsewhere, never over something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from conftest import Call
from heedful.models import DELTAS
from heedful.models.causal import load
from heedful.models.delta import DeltaSettings, attach
from heedful.testing import save_tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with an adapter that says something, and data that may not be shared."""
    base = save_tiny(tmp_path / "base")
    causal = load(str(base))
    causal.model = attach(causal.model, DELTAS.get("lora")(DeltaSettings(rank=4)), name="lora")
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    folder = tmp_path / "run"
    causal.model.save_pretrained(str(folder))
    causal.tokenizer.save_pretrained(str(folder))
    (folder / "README.md").write_text("# a card\n", "utf-8")
    (folder / "summary.json").write_text(json.dumps({"publishable": False}), "utf-8")
    return folder


def test_gguf(run: Path, tmp_path: Path, call: Call) -> None:
    gguf = pytest.importorskip("gguf")
    code, out, err = call("export", "gguf", run)
    assert (code, out) == (0, f"{run / 'model-q8_0.gguf'}\n")
    assert "does not allow these weights to be published" in err
    assert gguf.GGUFReader(run / "model-q8_0.gguf").fields["general.architecture"].contents() == "llama"
    code, _, err = call("export", "gguf", run)
    assert code == 2
    assert "is there already; name another place with --to" in err
    code, out, _ = call("export", "gguf", run, "--precision", "f16", "--to", tmp_path / "m.gguf")
    assert (code, out) == (0, f"{tmp_path / 'm.gguf'}\n")
    assert not list(run.glob("*.part"))


def test_merge(run: Path, tmp_path: Path, call: Call) -> None:
    code, out, _ = call("export", "merge", run)
    assert (code, out) == (0, f"{run / 'merged'}\n")
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        want, got = (load(str(path)).model(ids).logits for path in (run, run / "merged"))
        plain = load(str(tmp_path / "base")).model(ids).logits
    assert torch.allclose(want, got, atol=1e-4)
    assert not torch.allclose(want, plain, atol=1e-2)
    assert not (run / "merged" / "adapter_config.json").exists()
    assert (run / "merged" / "README.md").read_text("utf-8") == "# a card\n"
    code, _, _ = call("export", "merge", run, "--to", tmp_path / "half", "--dtype", "bfloat16")
    assert code == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"


def test_mistakes(tmp_path: Path, call: Call) -> None:
    code, _, err = call("export", "gguf", tmp_path / "nothing")
    assert code == 2
    assert "name a place with --to" in err
    code, _, err = call("export", "merge", save_tiny(tmp_path / "m"), "--to", tmp_path / "a" / "b")
    assert code == 2
    assert "does not exist; create it first" in err
    code, _, err = call("export", "gguf", save_tiny(tmp_path / "g", kind="gpt2"))
    assert code == 2
    assert "is a gpt2 model; GGUF export knows" in err
    assert not list((tmp_path / "g").glob("*.gguf*"))
