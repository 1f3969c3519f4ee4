"""`tlora-ref generate`: a prompt continued, printed as it is made; or a file of prompts answered into another."""

from __future__ import annotations

import json as lines
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_file
from tlora_ref.cli.prompting import say_ends, template_of_prompt
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import responder, say_unused
from tlora_ref.data import Row, encode_prompt, sample_form
from tlora_ref.errors import ConfigError, DataError, OutputError
from tlora_ref.files import write_text

#: What is put beside a record of --prompts.
RESPONSE, FINISH = "response", "finish"
Asked = list[tuple[dict[str, Any], Row]]


def run(
    context: typer.Context,
    model: o.ModelFolder,
    prompt: Annotated[str | None, typer.Option(help="What to continue.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts or messages, one JSON object a line.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --prompts: the file to write, with the responses.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file of responses.")] = False,
    field: o.Fields = None,
    batch_size: Annotated[int, typer.Option(min=1, help="With --prompts: how many are computed together.")] = 1,
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    template: o.TemplateOfAdapter = None,
    chat: o.Chat = False,
    system: o.System = None,
    max_new_tokens: o.MaxNewTokens = 64,
    temperature: o.Temperature = 0.0,
    top_k: o.TopK = None,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    repetition_penalty: o.RepetitionPenalty = 1.0,
    stop: o.Stops = None,
    seed: o.DrawSeed = 0,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    device: o.DeviceName = "cpu",
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Continue a prompt, or answer a file of prompts.

    Text is printed as it is made; --prompts FILE --out FILE answers a file.
    """
    screen = Screen(json)
    asked = _asked(context, prompt, prompts, out)
    tokenizer = tr.load_tokenizer(model)
    if asked and all(row.form == "messages" for _, row in asked):
        chat = True
    template = template_of_prompt(tokenizer, adapter, template, chat, system)
    pairs = [row.values["prompt"] for _, row in asked if "prompt" in row.values]
    say_ends(adapter, template, pairs if prompt is None else [prompt])
    ready, _ = tr.load_adapted(model, adapter, dtype, device, hold=hold)
    answering = responder(context, ready, tokenizer, within_context=prompt is None)
    if prompt is None and out is not None:
        _answer_file(screen, answering, asked, template, system, batch_size=batch_size, out=out)
        return
    ids = tr.encode_question(prompt or "", tokenizer, template, sample_form(ready), system)
    warn_of_length(ready, len(ids) + max_new_tokens)
    response = answering.respond(ids, None if json else show)
    screen.say("")
    if not response.text.strip():
        warn(f"the response is empty: {len(response.tokens)} token(s), of which none is text")
    values = {"prompt": prompt, "template": template, "text": response.text, "tokens": response.tokens}
    screen.finish({**values, FINISH: response.finish})


def show(text: str) -> None:
    """Text as it is made."""
    print(text, end="", flush=True)


def warn_of_length(model: tr.Model, longest: int) -> None:
    """A note where prompt and response may go beyond the context of a decoder."""
    if model.context is not None and longest > model.context and model.task_type == "CAUSAL_LM":
        warn(f"prompt and response may reach {longest} tokens, beyond the model's context {model.context}")


def _asked(context: typer.Context, prompt: str | None, prompts: Path | None, out: Path | None) -> Asked:
    """The prompts of a file, none with --prompt; ConfigError unless it is one of the two, and --out beside a file."""
    if (prompt is None) == (prompts is None):
        raise ConfigError("generate needs --prompt TEXT, or --prompts FILE with --out FILE: one of the two")
    if prompts is None:
        say_unused(context, "it belongs to --prompts", "out", "overwrite", "field", "batch_size")
        if not prompt:
            raise DataError("--prompt is empty: give at least one character")
        return []
    if out is None:
        raise ConfigError("--prompts needs a file for the responses: --out FILE")
    check_file(out, "--out")
    if out.resolve() == prompts.resolve():
        raise OutputError(f"--out {out}: is the file of the prompts. Choose another name")
    if out.exists() and not context.params["overwrite"]:
        raise OutputError(f"--out {out}: already exists. Choose another name, or replace it: --overwrite")
    found = tr.load_prompts(prompts, o.pairs("--field", context.params["field"]))
    taken = next(((row.where, name) for record, row in found for name in (RESPONSE, FINISH) if name in record), None)
    if taken is not None:
        raise DataError(f'{taken[0]}: the field "{taken[1]}" is where the response will be: rename it')
    return found


def _answer_file(
    screen: Screen,
    answering: tr.Responder,
    asked: Asked,
    template: str,
    system: str | None,
    *,
    batch_size: int,
    out: Path,
) -> None:
    form, ids = sample_form(answering.model), []
    for _, row in asked:
        ids.append(encode_prompt(tr.with_system(row, template, system), answering.tokenizer, template, form))
        answering.room(ids[-1], row.where)  # all fit, before the first is answered
    with screen.progress("responses") as progress:
        responses = answering.respond_to_all(ids, batch_size=batch_size, progress=progress)
    found = zip(asked, responses, strict=True)
    rows = [{**record, RESPONSE: response.text, FINISH: response.finish} for (record, _), response in found]
    write_text(out, "".join(f"{lines.dumps(row, ensure_ascii=False)}\n" for row in rows))
    counts = tr.finishes(responses)
    said = {"end": "ended by the model", "stop": "by a stop string", "length": "cut at the greatest length"}
    screen.say(f"wrote {out}: {len(rows)} responses, " + ", ".join(f"{n} {said[how]}" for how, n in counts.items()))
    screen.finish({"out": str(out), "responses": len(rows), FINISH: counts})
