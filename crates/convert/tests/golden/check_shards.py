"""Transformers opens what `herd convert --shard-size` writes, and finds the same numbers.

    python check_shards.py [HERD]

Needs `torch` and `transformers`. Every tiny checkpoint of `crates/infer/tests/golden` is written as several files, and
opened: same tensors, same logits, no key missing or left over.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[4]
HERD = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/herd")


def load(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model


def main():
    for source in sorted((ROOT / "crates/infer/tests/golden/checkpoints").iterdir()):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out"
            command = [HERD, "convert", source, out, "--type", "f32", "--shard-size", "20KB", "--json"]
            summary = json.loads(subprocess.check_output(command).splitlines()[-1])
            files = sorted(f.name for f in out.glob("model-*.safetensors"))
            index = json.loads((out / "model.safetensors.index.json").read_text())
            assert sorted(set(index["weight_map"].values())) == files and len(files) > 1
            assert index["metadata"]["total_size"] == summary["bytes"]
            ours, theirs = load(out), load(source)
            state = theirs.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
            tokens = torch.arange(1, 100).reshape(1, -1) % ours.config.vocab_size
            with torch.no_grad():
                assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
            text = "Sharded, café 123"
            ids = [AutoTokenizer.from_pretrained(path)(text).input_ids for path in (out, source)]
            assert ids[0] == ids[1]
            print(f"{source.name}: {len(files)} files, same tensors and logits")


if __name__ == "__main__":
    main()
