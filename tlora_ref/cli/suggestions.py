"""What may have been meant by a flag, a key or a command that is not there: the names that other tools use."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

#: Flag -> what TRL, transformers, PEFT, LLaMA-Factory, mlx-lm, litgpt and axolotl call it.
_FLAGS_ELSEWHERE: dict[str, str] = {
    "lr": "learning-rate learn-rate learningrate base-lr max-lr peak-lr",
    "epochs": "num-epochs num-train-epochs n-epochs epoch max-epochs train-epochs",
    "steps": "max-steps iters num-steps max-iters train-steps num-iters iterations num-train-steps num-iterations",
    "batch-size": "per-device-train-batch-size per-device-eval-batch-size train-batch-size micro-batch-size bs "
    "per-device-batch-size eval-batch-size micro-train-batch-size",
    "grad-accumulation": "gradient-accumulation-steps grad-accumulation-steps grad-accum accumulation-steps "
    "accumulate-grad-batches gradient-accumulation grad-acc",
    "schedule": "lr-scheduler-type lr-scheduler scheduler lr-schedule scheduler-type lr-decay-style",
    "warmup-ratio": "warmup warmup-fraction warmup-proportion",
    "warmup-steps": "num-warmup-steps",
    "min-lr": "lr-end lr-min minimum-lr",
    "max-grad-norm": "gradient-clipping clip-grad grad-clip clip-grad-norm gradient-clip-val grad-clip-norm",
    "weight-decay": "wd decay",
    "betas": "adam-betas adam-beta1 adam-beta2 beta1 beta2",
    "eps": "adam-epsilon adam-eps epsilon",
    "max-length": "max-seq-length max-seq-len cutoff-len block-size context-length sequence-len seq-len seq-length "
    "model-max-length max-len sequence-length",
    "packing": "neat-packing sample-packing",
    "too-long": "truncation truncate truncation-mode overflow overflow-strategy sample-packing-overflow",
    "rank": "lora-r r lora-rank lora-dim r-init",
    "alpha": "lora-alpha alpha-init",
    "target": "target-modules lora-target lora-target-modules lora-modules keys target-module modules lora-layers",
    "also": "modules-to-save additional-target trainable-modules additional-trainable",
    "init": "init-lora-weights initialization initialisation",
    "samples": "num-samples n-samples max-samples calibration-samples num-calibration-samples nsamples",
    "seed": "random-seed data-seed rng-seed",
    "out": "output-dir save-dir save-path output out-dir output-path output-file",
    "data": "dataset train-file data-path dataset-name train-data dataset-path train-path train-dataset data-dir "
    "eval-file test-file eval-data test-data dataset-dir",
    "valid": "validation-file val-data eval-dataset valid-file val-file validation valid-data dev validation-data",
    "eval-every": "eval-steps steps-per-eval evaluation-steps eval-interval val-every val-interval eval-freq",
    "save-every": "save-steps checkpoint-every save-interval checkpoint-interval save-freq",
    "keep-last": "save-total-limit save-top-k keep-checkpoints max-checkpoints",
    "log-every": "logging-steps steps-per-report log-interval log-steps print-every",
    "resume": "resume-from-checkpoint resume-adapter-file continue resume-from",
    "overwrite": "overwrite-output-dir force overwrite-output exist-ok",
    "adapter": "adapter-path adapter-name-or-path peft-model lora-path lora adapters lora-weights adapter-dir "
    "adapter-file peft lora-adapter",
    "template": "chat-template prompt-template prompt-format",
    "chat": "use-chat-template apply-chat-template is-chat",
    "system": "system-prompt default-system system-message sys",
    "max-new-tokens": "max-tokens max-gen-len num-tokens max-gen-tokens n-predict max-new-token max-output-tokens",
    "temperature": "temp sampling-temperature",
    "top-p": "topp nucleus",
    "top-k": "topk",
    "min-p": "minp",
    "repetition-penalty": "repeat-penalty rep-penalty rep-pen penalty",
    "stop": "stop-strings stop-string stop-words stop-sequences stop-sequence reverse-prompt extra-eos-token",
    "prompt": "text question input query",
    "prompts": "prompts-file prompt-file input-file messages-file",
    "dtype": "torch-dtype precision fp16 bf16 fp32 half float16 bfloat16 pure-bf16 compute-dtype",
    "dtype-out": "save-dtype export-dtype output-dtype out-dtype",
    "device": "cuda gpu cpu device-map no-cuda use-cpu",
    "task": "tasks benchmark",
    "limit": "max-eval-samples num-rows max-rows",
    "split": "dataset-split subset",
    "write": "write-out save-responses predictions",
    "workers": "num-proc num-workers n-jobs jobs preprocessing-num-workers",
    "log": "report-to logger",
    "trainable": "train-type finetuning-type",
}
FLAGS_ELSEWHERE = {theirs: ours for ours, names in _FLAGS_ELSEWHERE.items() for theirs in names.split()}

#: The model is an argument on the command line, and a key like any other in a file.
MODEL_ADVICE = "the model's folder stands without a flag, right after the command"

#: What other tools have and this one has not, or not as a flag: what to do instead.
_ADVICE: dict[str, str] = {
    "model model-name-or-path model-path base-model model-name pretrained-model-name-or-path model-id checkpoint-dir": (
        MODEL_ADVICE
    ),
    "lora-dropout dropout": "TLoRA trains without dropout: leave it out",
    "optim optimizer optimiser optimizer-type": "AdamW is the one optimizer: leave it out",
    "mask-prompt train-on-inputs train-on-prompt completion-only-loss assistant-only-loss": (
        "the response alone is scored, always: leave it out"
    ),
    "grad-checkpoint gradient-checkpointing flash-attn attn-implementation": "there is no such setting: leave it out",
    "load-in-4bit load-in-8bit quantize quantization quantization-bit q-bits": (
        "weights are not quantised here: --dtype float32 takes least memory"
    ),
    "num-layers lora-layers-to-transform layers-to-transform": (
        r"choose layers by a regular expression, e.g. --target 'model\.layers\.[0-3]\..*'"
    ),
    "use-rslora use-dora use-qlora": "the method here is TLoRA, with --uniform-rank and --uniform-scale plain LoRA",
    "lora-parameters lora peft-config": "its keys stand by themselves here: --rank, --alpha, --target",
    "do-train do-eval train stage fine-tune-type": "the command says what is done: leave it out",
    "wandb logging-dir": "OUT/metrics.csv has the steps, and --log tensorboard writes OUT/tensorboard",
    "scale": "the scale is alpha over rank: --alpha",
    "num-beams beam-size typical-p": "it is greedy, or draws by --temperature, --top-k, --top-p and --min-p",
    "trust-remote-code": "no code of a checkpoint is ever run: leave it out",
}
ADVICE = {name: advice for names, advice in _ADVICE.items() for name in names.split()}

#: Commands by other names.
_COMMANDS_ELSEWHERE: dict[str, str] = {
    "demo": "example quickstart tutorial try start",
    "train": "finetune fine-tune sft lora fit tune run finetune-lora",
    "eval": "evaluate test score benchmark perplexity",
    "chat": "talk converse repl interactive dialog",
    "generate": "inference infer predict complete sample ask",
    "merge": "fuse merge-lora merge-and-unload",
    "export": "convert gguf to-gguf mlx",
    "explain": "walkthrough visualize visualise page",
    "study": "replicate experiment table1",
    "preview": "tokenize tokenise render look dry-run show-data view-data",
    "plan": "estimate info memory params",
    "init": "initialize initialise calibrate make create",
    "report": "summary show stats inspect summarize",
    "verify": "compare validate diff",
    "check": "conformance lint",
    "trace": "record golden",
}
COMMANDS_ELSEWHERE = {theirs: ours for ours, names in _COMMANDS_ELSEWHERE.items() for theirs in names.split()}


def flag_hint(given: str, command: str, flags: Mapping[str, Collection[str]], dashes: str = "--") -> str:
    """What may have been meant by the flag (or key) `given` of a command: a sentence without its full stop.

    Parameters
    ----------
    flags : {command: its flags, without dashes}
    dashes : what flags begin with where they were given: "" for the keys of a file
    """
    name, own = given.lstrip("-").lower().replace("_", "-"), flags[command]
    ours = name if name in own else FLAGS_ELSEWHERE.get(name)
    if ours in own:
        return f"did you mean {dashes}{ours}?"
    if ADVICE.get(name) == MODEL_ADVICE and "model" in own:
        return f"did you mean {dashes}model?"
    if name in ADVICE:
        return ADVICE[name]
    if any((ours or name) in theirs for theirs in flags.values()):
        meant = "" if (ours or name) == name else f"did you mean {dashes}{ours}? "
        return f"{meant}it belongs to {_owners(ours or name, flags)}"
    if close := difflib.get_close_matches(name, own, n=1):
        return f"did you mean {dashes}{close[0]}?"
    if close := difflib.get_close_matches(name, {flag for theirs in flags.values() for flag in theirs}, n=1):
        return f"did you mean {dashes}{close[0]}? it belongs to {_owners(close[0], flags)}"
    return f"tlora-ref {command} -h lists those there are"


def _owners(flag: str, flags: Mapping[str, Collection[str]]) -> str:
    return ", ".join(command for command, theirs in flags.items() if flag in theirs)


def command_hint(given: str, commands: Collection[str]) -> str:
    """What may have been meant by a command that is not there."""
    name = given.lower().replace("_", "-")
    found = COMMANDS_ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, commands, n=1)), None)
    return f"did you mean {found}?" if found else f"there are {', '.join(commands)}"
