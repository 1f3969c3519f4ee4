"""A conversation of several turns with a model."""

from __future__ import annotations

import json
from pathlib import Path

from tlora_ref.data import Row, encode_prompt, sample_form
from tlora_ref.data.templates import CHAT, check_template
from tlora_ref.errors import ConfigError, OutputError, reason
from tlora_ref.files import write_text
from tlora_ref.pipeline.responding import OnText, Responder, Response
from tlora_ref.transformer.cache import KeyValueCache

Message = dict[str, str]


class Chat:
    """A conversation, under the tokenizer's chat template; under a named template, questions one by one.

    A turn computes what its prompt has beyond the turn before: keys and values of the common beginning are kept.

    Attributes
    ----------
    messages : {"role", "content"} of all that was said
    system : the system message, which `reset` keeps
    template : "chat", and the model is asked with all that was said before; or a named one, and with the line alone
    end : under a named template, what every line is given at its end: what the prompts ended in that were trained on
    prompt_tokens, kept_tokens : of the last turn's prompt: all, and those that were kept from the turn before

    Raises
    ------
    DataError
        if the tokenizer has no chat template, which the template "chat" needs.
    ConfigError
        for an unknown template, or a system message under a named one.
    """

    def __init__(self, responder: Responder, system: str | None = None, template: str = CHAT, *, end: str = "") -> None:
        if check_template(template) == CHAT:
            responder.tokenizer.template()
        elif system is not None:
            raise ConfigError(f"a system message is part of a chat, and the template is {template}")
        self.responder, self.system, self.template, self.end = responder, system, template, end
        self.messages: list[Message] = []
        self.prompt_tokens = self.kept_tokens = 0
        self._cache = None if responder.decodes_alone else KeyValueCache()
        self._saved: set[Path] = set()
        self.reset()

    def reset(self) -> None:
        """Everything said is forgotten, the system message kept."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    @property
    def turns(self) -> int:
        """How many times the model has answered."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def say(self, text: str, on_text: OnText | None = None) -> Response:
        """The model's answer, which becomes part of the conversation together with `text`.

        Raises
        ------
        DataError
            if the prompt leaves no room in the model's context, or the template refuses it; all is as before.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        row = Row("messages", {"messages": [*asked, {"role": "assistant", "content": ""}]}, "the conversation")
        if self.template != CHAT:
            row = Row("pair", {"prompt": text + self.end, "completion": ""}, "the prompt")
        responder = self.responder
        prompt = encode_prompt(row, responder.tokenizer, self.template, sample_form(responder.model))
        responder.room(prompt, row.where)
        response = responder.respond(prompt, on_text, number=self.turns, cache=self._cache)
        self.prompt_tokens = len(prompt)
        self.kept_tokens = 0 if self._cache is None else self._cache.kept
        self.messages = [*asked, {"role": "assistant", "content": response.text}]
        return response

    def rows(self) -> list[dict[str, object]]:
        """What was said as rows that `load_dataset` reads: one of messages, or a prompt and completion a turn."""
        if self.template == CHAT:
            return [{"messages": self.messages}]
        said = [message["content"] for message in self.messages]
        pairs = zip(said[::2], said[1::2], strict=True)
        return [{"prompt": asked + self.end, "completion": answer} for asked, answer in pairs]

    def save(self, path: str | Path) -> None:
        """`rows`, a line each.

        Raises
        ------
        ConfigError, OutputError
            if nothing was said; if the file is there and not this conversation's, or cannot be written.
        """
        file = Path(path)
        if not self.turns:
            raise ConfigError("nothing was said yet, so there is nothing to save")
        if file.exists() and file.resolve() not in self._saved:
            raise OutputError(f"{file}: is there already. Choose another name")
        try:
            write_text(file, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in self.rows()))
        except OSError as error:
            raise OutputError(f"{file}: cannot be written ({reason(error)})") from error
        self._saved.add(file.resolve())
