#!/usr/bin/env python3
"""Golden values of the post-training losses from TRL's own trainers (trl 1.16, transformers 5.23, torch 2.15).

    python3 make_golden.py       # writes the folders and golden.json beside this file

The models are tiny and random, in Hugging Face form. `golden.json` holds the token lists of each batch and, for SFT,
DPO and the reward model, the loss and what TRL logs of it; the gradients of all parameters are in
`NAME_gradient/`, in the form of a model.
"""

import json
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

HERE = Path(__file__).parent
FORMAT = [60, 61, 62]  # stand for header and terminator tokens: never counted by DPO

# prompt, responses best first; the last token of a response is its terminator
BATCH = [
    {"prompt": [1, 60, 5, 9, 33, 61], "responses": [[7, 12, 40, 62], [8, 8, 62]]},
    {"prompt": [1, 60, 17, 61], "responses": [[30, 31, 32, 33, 34, 62], [11, 62]]},
    {"prompt": [1, 60, 2, 3, 4, 5, 6, 61], "responses": [[20, 62], [21, 22, 23, 24, 62], [50, 50, 50, 50, 50, 50, 62]]},
]


def config():
    return LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rope_theta=500000.0, rms_norm_eps=1e-5,
                       tie_word_embeddings=True, attention_bias=False, mlp_bias=False, pad_token_id=0, bos_token_id=1, eos_token_id=62,
                       initializer_range=0.25, attn_implementation="eager")


def random_norms(model):
    for name, value in model.named_parameters():
        if "norm" in name:
            value.data.add_(0.2 * torch.randn_like(value))
    return model


def tokenizer():
    vocabulary = {f"t{i}": i for i in range(64)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="t0")), pad_token="t0", eos_token="t62", bos_token="t1")


def keep_gradients(model, name):
    """In the form of a model, so that it is read as one."""
    folder = HERE / f"{name}_gradient"
    model.config.save_pretrained(folder)
    save_file({n: p.grad.clone() for n, p in model.named_parameters()}, folder / "model.safetensors")


def dpo(policy, reference):
    rows = [{"prompt_ids": b["prompt"], "chosen_ids": b["responses"][0], "rejected_ids": b["responses"][1]} for b in BATCH]
    args = DPOConfig(output_dir="/tmp/golden-dpo", loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], beta=0.1, report_to=[], use_cpu=True, bf16=False)
    text = Dataset.from_list([{"prompt": "t1", "chosen": "t2", "rejected": "t3"}])
    trainer = DPOTrainer(policy, ref_model=reference, args=args, train_dataset=text, processing_class=tokenizer())
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    for token in FORMAT:
        batch["completion_mask"][batch["input_ids"] == token] = 0
    policy.train()
    policy.zero_grad()
    loss = trainer._compute_loss(policy, batch, return_outputs=False)
    loss.backward()
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    names = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"]
    keep_gradients(policy, "dpo")
    return {"loss": loss.item(), **{n: logged[n] for n in names}}


def sft(policy):
    """Mean over the counted tokens of all dialogs, one forward for each dialog: no packing on this side."""
    policy.zero_grad()
    total, count = 0.0, 0
    for b in BATCH:
        tokens = torch.tensor([b["prompt"] + b["responses"][0]])
        labels = tokens.clone()
        labels[:, : len(b["prompt"])] = -100
        counted = len(b["responses"][0])
        total = total + policy(tokens, labels=labels).loss * counted
        count += counted
    loss = total / count
    loss.backward()
    keep_gradients(policy, "sft")
    return {"loss": loss.item(), "tokens": count}


def reward(model):
    """Every ordered pair of each group as TRL pairs, each response in a row of its own."""
    better, worse = [], []
    for b in BATCH:
        rows = [b["prompt"] + r for r in b["responses"]]
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                better.append(rows[i])
                worse.append(rows[j])
    args = RewardConfig(output_dir="/tmp/golden-reward", report_to=[], use_cpu=True, bf16=False, disable_dropout=True, center_rewards_coefficient=None)
    text = Dataset.from_list([{"chosen": "t2", "rejected": "t3"}])
    trainer = RewardTrainer(model, args=args, train_dataset=text, processing_class=tokenizer())
    model.train()
    longest = max(map(len, better + worse))
    pad = lambda row: row + [0] * (longest - len(row))
    ids = torch.tensor([pad(r) for r in better + worse])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in better + worse])
    model.zero_grad()
    loss, outputs = trainer.compute_loss(model, {"input_ids": ids, "attention_mask": mask}, return_outputs=True)
    loss.backward()
    keep_gradients(model, "reward")
    alone = [[model(torch.tensor([b["prompt"] + r])).logits.item() for r in b["responses"]] for b in BATCH]
    return {"loss": loss.item(), "rewards": alone, "accuracy": trainer._metrics["train"]["accuracy"][-1],
            "margin": trainer._metrics["train"]["margin"][-1]}


def main():
    torch.manual_seed(7)
    torch.use_deterministic_algorithms(True)
    policy, reference = (random_norms(LlamaForCausalLM(config())) for _ in range(2))
    classes = config()
    classes.num_labels = 1
    ranker = random_norms(LlamaForSequenceClassification(classes))
    for model, name in [(policy, "policy"), (reference, "reference"), (ranker, "reward")]:
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
    golden = {"batch": BATCH, "format": FORMAT, "sft": sft(policy), "dpo": dpo(policy, reference), "reward": reward(ranker)}
    (HERE / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
